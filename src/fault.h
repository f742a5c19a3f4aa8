/*
 * Points at which a test makes a worker fail. In an ordinary build there are none.
 */
#ifndef KT_FAULT_H
#define KT_FAULT_H

#ifdef KT_FAULTS
extern void kt_fault(const char *point);
#define KT_FAULT(point) kt_fault(point)
#else
#define KT_FAULT(point) ((void) 0)
#endif

#endif /* KT_FAULT_H */
