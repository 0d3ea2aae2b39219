/* Empty in the product. */
#include "convert/fault.h"

#ifdef CVT_FAULTY
cvt_fault cvt_fault_now = CVT_FAULT_NONE;
#endif
