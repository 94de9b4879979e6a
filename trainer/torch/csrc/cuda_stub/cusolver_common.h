// As cublas_v2.h here.
#pragma once
typedef int cusolverStatus_t;
