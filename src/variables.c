/*
 * The variables of a webhook, an array of {"variable": name, "value": anything}, as one object.
 */
#include "postgres.h"

#include "variables.h"

#include "utils/builtins.h"

static JsonbValue *
find_member(JsonbContainer *object, const char *name)
{
	JsonbValue key = {.type = jbvString};

	key.val.string.val = unconstify(char *, name);
	key.val.string.len = strlen(name);
	return findJsonbValueFromContainer(object, JB_FOBJECT, &key);
}

/* One element of the array. False for one of another shape. */
static bool
read_variable(JsonbValue *element, JsonbValue *name, JsonbValue *value)
{
	JsonbValue *found;

	if (element->type != jbvBinary || !JsonContainerIsObject(element->val.binary.data))
		return false;
	found = find_member(element->val.binary.data, "variable");
	if (found == NULL || found->type != jbvString)
		return false;
	*name = *found;
	found = find_member(element->val.binary.data, "value");
	if (found == NULL)
		value->type = jbvNull;
	else
		*value = *found;
	return true;
}

Jsonb *
kt_variables_object(Jsonb *variables)
{
	JsonbParseState *state = NULL;
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue element;
	JsonbValue name;
	JsonbValue value;

	if (JB_ROOT_IS_OBJECT(variables))
		return variables;
	if (!JB_ROOT_IS_ARRAY(variables) || JB_ROOT_IS_SCALAR(variables))
		return NULL;
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	iterator = JsonbIteratorInit(&variables->root);
	while ((token = JsonbIteratorNext(&iterator, &element, true)) != WJB_DONE)
	{
		if (token != WJB_ELEM || !read_variable(&element, &name, &value))
			continue;
		pushJsonbValue(&state, WJB_KEY, &name);
		pushJsonbValue(&state, WJB_VALUE, &value);
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

char *
kt_variables_string(Jsonb *object, const char *name)
{
	JsonbValue *found = object == NULL ? NULL : find_member(&object->root, name);

	if (found == NULL || found->type != jbvString)
		return NULL;
	return pnstrdup(found->val.string.val, found->val.string.len);
}
