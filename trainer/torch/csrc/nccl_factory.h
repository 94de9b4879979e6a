// What the optional NCCL plug-in exports and the shim looks up after dlopen.
#pragma once
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

// Exported as `bt_nccl_create`. On failure leaves `out` empty and puts a malloc'ed message into `err`.
using bt_nccl_factory = void (*)(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size,
                                 int64_t timeout_ms, int device,
                                 c10::intrusive_ptr<c10d::Backend>* out, char** err);
