// The NCCL plug-in, libbeit_nccl.so: the one part that needs CUDA headers, so no build of the workspace does.
// `scripts/nccl.sh` compiles it; the shim opens it when ranks on GPUs want it. Compiled, never yet run on a GPU.
#include "../nccl_factory.h"

#include <c10/cuda/CUDAFunctions.h>
#include <cstring>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

extern "C" void bt_nccl_create(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size, int64_t timeout_ms,
                               int device, c10::intrusive_ptr<c10d::Backend>* out, char** err) {
  try {
    c10::cuda::set_device(static_cast<c10::DeviceIndex>(device));
    auto options = c10d::ProcessGroupNCCL::Options::create(/*is_high_priority_stream=*/false);
    options->timeout = std::chrono::milliseconds(timeout_ms);
    *out = c10::make_intrusive<c10d::ProcessGroupNCCL>(store, rank, size, options);
  } catch (const c10::Error& e) {
    *err = strdup(e.what_without_backtrace());
  } catch (const std::exception& e) {
    *err = strdup(e.what());
  } catch (...) {
    *err = strdup("an exception that is not a std::exception");
  }
}

// Keeps the shim's idea of this function in step with ours.
static bt_nccl_factory const same_type [[maybe_unused]] = bt_nccl_create;
