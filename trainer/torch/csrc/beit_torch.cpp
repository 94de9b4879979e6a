// The whole foreign half of beit-torch. Plain C functions; an `at::Tensor*` is what tch calls `C_tensor*`.
//
// Rules: no exception leaves a function (it becomes a malloc'ed message in `*err`, and the caller frees it with
// `bt_string_free`); no function keeps a pointer it was given; handles are freed by their own `_free`.
#include "nccl_factory.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <dlfcn.h>
#include <cstring>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <torch/csrc/distributed/c10d/logger.hpp>
#include <torch/csrc/distributed/c10d/reducer.hpp>

namespace {

struct StoreHandle { c10::intrusive_ptr<c10d::Store> store; };
struct GroupHandle { c10::intrusive_ptr<c10d::ProcessGroup> group; };
struct WorkHandle { c10::intrusive_ptr<c10d::Work> work; };

// c10d takes the times of some steps for its own log; this one takes those of every step, and tells.
struct TimedReducer : c10d::Reducer {
  using c10d::Reducer::Reducer;

  // From this rank's last gradient to the last average, in the newest backward; -1: not taken.
  int64_t exposed_ns() {
    using Event = c10d::Timer::Event;
    if (!timer_) return -1;
    return timer_->measureDifference(Event::kBackwardComputeEnd, Event::kBackwardCommEnd).value_or(-1);
  }
};
struct ReducerHandle { std::unique_ptr<TimedReducer> reducer; };

// Runs `body`; turns whatever it throws into a message and returns `failed` instead.
template <class Failed, class Body>
auto guarded(char** err, Failed failed, Body body) -> decltype(body()) {
  try {
    return body();
  } catch (const c10::Error& e) {
    *err = strdup(e.what_without_backtrace());
  } catch (const std::exception& e) {
    *err = strdup(e.what());
  } catch (...) {
    *err = strdup("an exception that is not a std::exception");
  }
  return failed;
}

std::vector<at::Tensor> listed(at::Tensor* const* tensors, size_t count) {
  std::vector<at::Tensor> list;
  list.reserve(count);
  for (size_t i = 0; i < count; i++) list.push_back(*tensors[i]);
  return list;
}

std::optional<at::Tensor> maybe(const at::Tensor* tensor) {
  return tensor ? std::optional<at::Tensor>(*tensor) : std::nullopt;
}

void* open_library(const char* path) {
  void* library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
  if (!library) throw std::runtime_error(dlerror());
  return library;
}

at::DeviceType autocast_device(int cuda) { return cuda ? at::kCUDA : at::kCPU; }

// ---- a stretch that backward runs again ------------------------------------------------------------------------

using BodyRun = at::Tensor* (*)(void* context, at::Tensor* const* inputs, size_t count, char** err);

// This thread's autocast for one kind of device.
struct AutocastState {
  at::DeviceType device;
  bool enabled;
  at::ScalarType dtype;
  explicit AutocastState(at::DeviceType device)
      : device(device),
        enabled(at::autocast::is_autocast_enabled(device)),
        dtype(at::autocast::get_autocast_dtype(device)) {}
  void set() const {
    at::autocast::set_autocast_enabled(device, enabled);
    at::autocast::set_autocast_dtype(device, dtype);
  }
};

// While it lives, autocast is as it was when `then` was read.
struct AutocastAgain {
  std::vector<AutocastState> now;
  explicit AutocastAgain(const std::vector<AutocastState>& then) {
    for (const auto& state : then) now.emplace_back(state.device);
    for (const auto& state : then) state.set();
    at::autocast::increment_nesting();
  }
  ~AutocastAgain() {
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
    for (const auto& state : now) state.set();
  }
};

// Rust's closure, and the autocast it was first run under.
struct Body final : torch::CustomClassHolder {
  BodyRun run;
  void (*release_context)(void*);
  void* context;
  std::vector<AutocastState> autocast{AutocastState(at::kCPU), AutocastState(at::kCUDA)};
  Body(BodyRun run, void (*release)(void*), void* context) : run(run), release_context(release), context(context) {}
  ~Body() override { release_context(context); }

  at::Tensor operator()(at::TensorList inputs) const {
    std::vector<at::Tensor> own(inputs.begin(), inputs.end());
    std::vector<at::Tensor*> pointers;
    for (auto& tensor : own) pointers.push_back(&tensor);
    char* failure = nullptr;
    std::unique_ptr<at::Tensor> output(run(context, pointers.data(), pointers.size(), &failure));
    if (!output) {
      std::string message(failure ? failure : "nothing came out");
      free(failure);
      throw std::runtime_error(message);
    }
    return *output;
  }
};

struct Recomputed : torch::autograd::Function<Recomputed> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, c10::intrusive_ptr<Body> body, at::TensorList inputs) {
    ctx->save_for_backward(torch::autograd::variable_list(inputs.begin(), inputs.end()));
    ctx->saved_data["body"] = c10::IValue::make_capsule(body);
    at::NoGradGuard no_grad;
    return (*body)(inputs);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list gradients) {
    auto saved = ctx->get_saved_variables();
    auto body = c10::static_intrusive_pointer_cast<Body>(ctx->saved_data["body"].toCapsule());
    std::vector<at::Tensor> inputs;
    for (const auto& tensor : saved) inputs.push_back(tensor.detach().requires_grad_(tensor.requires_grad()));
    at::AutoGradMode grad(true);
    at::Tensor output;
    {
      AutocastAgain autocast(body->autocast);
      output = (*body)(inputs);
    }
    torch::autograd::backward({output}, {gradients[0].to(output.scalar_type())});  // parameters get their .grad here
    torch::autograd::variable_list result{at::Tensor()};  // the body has no gradient
    for (const auto& tensor : inputs) result.push_back(tensor.grad());
    return result;
  }
};

// ---- linear layers ---------------------------------------------------------------------------------------------

using Pointwise = at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, std::string_view,
                             c10::List<std::optional<at::Scalar>>, std::optional<std::string_view>);

// oneDNN's x·wᵀ + b; none where libtorch was built without it.
const std::optional<c10::TypedOperatorHandle<Pointwise>>& one_dnn() {
  static const auto found = []() -> std::optional<c10::TypedOperatorHandle<Pointwise>> {
    auto op = c10::Dispatcher::singleton().findSchema({"mkldnn::_linear_pointwise", ""});
    if (!op) return std::nullopt;
    return op->typed<Pointwise>();
  }();
  return found;
}

at::Tensor product(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias) {
  return one_dnn()->call(x, weight, bias, "none", c10::List<std::optional<at::Scalar>>(), "");
}

// oneDNN for forward and for the gradient of the input, BLAS for the gradient of the weight, where it is faster.
struct OneDnnLinear : torch::autograd::Function<OneDnnLinear> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                            const at::Tensor& bias) {
    ctx->save_for_backward({x, weight});
    at::NoGradGuard no_grad;
    return product(x, weight, bias);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list gradients) {
    at::NoGradGuard no_grad;
    auto saved = ctx->get_saved_variables();
    const auto &x = saved[0], &weight = saved[1];
    auto rows = gradients[0].reshape({-1, weight.size(0)}).contiguous();
    at::Tensor dx, dw, db;
    if (ctx->needs_input_grad(0)) dx = product(rows, weight.t(), std::nullopt).view(x.sizes());
    if (ctx->needs_input_grad(1)) dw = rows.t().mm(x.reshape({-1, weight.size(1)}));
    if (ctx->needs_input_grad(2)) db = rows.sum(0);
    return {dx, dw, db};
  }
};

}  // namespace

extern "C" {

void bt_string_free(char* text) { free(text); }

char* bt_string_copy(const char* text) { return strdup(text); }

// Owns `context` whatever happens.
at::Tensor* bt_recomputed(at::Tensor* const* inputs, size_t count, BodyRun run, void (*release)(void*), void* context,
                          char** err) {
  return guarded(err, nullptr, [&]() -> at::Tensor* {
    auto body = c10::make_intrusive<Body>(run, release, context);
    auto list = listed(inputs, count);
    return new at::Tensor(Recomputed::apply(body, at::TensorList(list)));
  });
}

// ---- store ---------------------------------------------------------------------------------------------------

void* bt_store_tcp(const char* host, uint16_t port, int is_server, int64_t world_size, int wait_for_workers,
                   int64_t timeout_ms, char** err) {
  return guarded(err, nullptr, [&]() -> void* {
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = is_server != 0;
    options.waitWorkers = wait_for_workers != 0;
    if (world_size > 0) options.numWorkers = static_cast<size_t>(world_size);
    options.multiTenant = true;
    options.timeout = std::chrono::milliseconds(timeout_ms);
    return new StoreHandle{c10::make_intrusive<c10d::TCPStore>(std::string(host), options)};
  });
}

int bt_store_port(void* store, char** err) {
  return guarded(err, -1, [&]() -> int {
    auto* tcp = dynamic_cast<c10d::TCPStore*>(static_cast<StoreHandle*>(store)->store.get());
    if (!tcp) throw std::runtime_error("only the TCP store itself has a port, not a prefix of it");
    return tcp->getPort();
  });
}

void* bt_store_prefix(void* store, const char* prefix, char** err) {
  return guarded(err, nullptr, [&]() -> void* {
    return new StoreHandle{
        c10::make_intrusive<c10d::PrefixStore>(std::string(prefix), static_cast<StoreHandle*>(store)->store)};
  });
}

int bt_store_set(void* store, const char* key, const uint8_t* value, size_t length, char** err) {
  return guarded(err, -1, [&]() -> int {
    static_cast<StoreHandle*>(store)->store->set(key, std::vector<uint8_t>(value, value + length));
    return 0;
  });
}

// Gives a malloc'ed copy of the value; the caller frees it with `bt_bytes_free`.
uint8_t* bt_store_get(void* store, const char* key, size_t* length, char** err) {
  return guarded(err, nullptr, [&]() -> uint8_t* {
    auto value = static_cast<StoreHandle*>(store)->store->get(key);
    auto* bytes = static_cast<uint8_t*>(malloc(value.empty() ? 1 : value.size()));
    if (!bytes) throw std::bad_alloc();
    memcpy(bytes, value.data(), value.size());
    *length = value.size();
    return bytes;
  });
}

void bt_bytes_free(uint8_t* bytes) { free(bytes); }

int64_t bt_store_add(void* store, const char* key, int64_t amount, char** err) {
  return guarded(err, 0, [&]() -> int64_t { return static_cast<StoreHandle*>(store)->store->add(key, amount); });
}

int bt_store_has(void* store, const char* key, char** err) {
  return guarded(err, -1, [&]() -> int { return static_cast<StoreHandle*>(store)->store->check({key}); });
}

void bt_store_free(void* store) {
  char* ignored = nullptr;
  guarded(&ignored, 0, [&]() -> int { delete static_cast<StoreHandle*>(store); return 0; });
  free(ignored);
}

// ---- process group -------------------------------------------------------------------------------------------

void* bt_group_gloo(void* store, int rank, int size, int64_t timeout_ms, const char* host, int threads, char** err) {
  return guarded(err, nullptr, [&]() -> void* {
    auto keys = static_cast<StoreHandle*>(store)->store;
    auto options = c10d::ProcessGroupGloo::Options::create(std::chrono::milliseconds(timeout_ms));
    options->devices.push_back(*host == '%' ? c10d::ProcessGroupGloo::createDeviceForInterface(host + 1)
                               : *host ? c10d::ProcessGroupGloo::createDeviceForHostname(host)
                                     : c10d::ProcessGroupGloo::createDefaultDevice());
    options->threads = threads;
    auto gloo = c10::make_intrusive<c10d::ProcessGroupGloo>(keys, rank, size, options);
    auto group = c10::make_intrusive<c10d::ProcessGroup>(keys, rank, size);
    group->setDefaultBackend(c10d::ProcessGroup::BackendType::GLOO);
    group->setBackend(at::kCPU, c10d::ProcessGroup::BackendType::GLOO, c10::intrusive_ptr<c10d::Backend>(gloo));
    group->setBackend(at::kCUDA, c10d::ProcessGroup::BackendType::GLOO, c10::intrusive_ptr<c10d::Backend>(gloo));
    group->setGroupName("beit");
    return new GroupHandle{group};
  });
}

void* bt_group_nccl(void* store, int rank, int size, int64_t timeout_ms, const char* plugin, int device, char** err) {
  return guarded(err, nullptr, [&]() -> void* {
    auto keys = static_cast<StoreHandle*>(store)->store;
    auto create = reinterpret_cast<bt_nccl_factory>(dlsym(open_library(plugin), "bt_nccl_create"));
    if (!create) throw std::runtime_error("the plug-in has no function bt_nccl_create");
    c10::intrusive_ptr<c10d::Backend> nccl;
    char* failure = nullptr;
    create(keys, rank, size, timeout_ms, device, &nccl, &failure);
    if (failure) {
      std::string message(failure);
      free(failure);
      throw std::runtime_error(message);
    }
    auto group = c10::make_intrusive<c10d::ProcessGroup>(keys, rank, size);
    group->setDefaultBackend(c10d::ProcessGroup::BackendType::NCCL);
    group->setBackend(at::kCUDA, c10d::ProcessGroup::BackendType::NCCL, nccl);
    group->setGroupName("beit");
    return new GroupHandle{group};
  });
}

void bt_group_free(void* group) {
  char* ignored = nullptr;
  guarded(&ignored, 0, [&]() -> int { delete static_cast<GroupHandle*>(group); return 0; });
  free(ignored);
}

// `op` is a c10d::ReduceOp::RedOpType.
void* bt_all_reduce(void* group, at::Tensor* tensor, int op, char** err) {
  return guarded(err, nullptr, [&]() -> void* {
    at::NoGradGuard no_grad;
    std::vector<at::Tensor> one{*tensor};
    c10d::AllreduceOptions options;
    options.reduceOp = c10d::ReduceOp(static_cast<c10d::ReduceOp::RedOpType>(op));
    return new WorkHandle{static_cast<GroupHandle*>(group)->group->allreduce(one, options)};
  });
}

void* bt_broadcast(void* group, at::Tensor* tensor, int root, char** err) {
  return guarded(err, nullptr, [&]() -> void* {
    at::NoGradGuard no_grad;
    std::vector<at::Tensor> one{tensor->detach()};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    return new WorkHandle{static_cast<GroupHandle*>(group)->group->broadcast(one, options)};
  });
}

void* bt_barrier(void* group, char** err) {
  return guarded(err, nullptr,
                 [&]() -> void* { return new WorkHandle{static_cast<GroupHandle*>(group)->group->barrier()}; });
}

int bt_monitored_barrier(void* group, int64_t timeout_ms, char** err) {
  return guarded(err, -1, [&]() -> int {
    c10d::BarrierOptions options;
    options.timeout = std::chrono::milliseconds(timeout_ms);
    static_cast<GroupHandle*>(group)->group->monitoredBarrier(options, /*wait_all_ranks=*/true);
    return 0;
  });
}

// `timeout_ms` <= 0: the group's own timeout. Returns -1 with a message when the operation failed or timed out.
int bt_work_wait(void* work, int64_t timeout_ms, char** err) {
  return guarded(err, -1, [&]() -> int {
    auto& pending = static_cast<WorkHandle*>(work)->work;
    bool done = timeout_ms > 0 ? pending->wait(std::chrono::milliseconds(timeout_ms)) : pending->wait();
    if (!done) throw std::runtime_error("the operation did not finish");
    return 0;
  });
}

int bt_work_is_done(void* work, char** err) {
  return guarded(err, -1, [&]() -> int { return static_cast<WorkHandle*>(work)->work->isCompleted(); });
}

void bt_work_free(void* work) {
  char* ignored = nullptr;
  guarded(&ignored, 0, [&]() -> int { delete static_cast<WorkHandle*>(work); return 0; });
  free(ignored);
}

// ---- reducer -------------------------------------------------------------------------------------------------

void* bt_reducer_new(void* group, at::Tensor* const* parameters, const char* const* names, size_t count,
                     int64_t first_bucket_bytes, int64_t bucket_bytes, int find_unused, int gradient_as_bucket_view,
                     char** err) {
  return guarded(err, nullptr, [&]() -> void* {
    auto params = listed(parameters, count);
    std::vector<bool> sparse(count, false);
    auto assignment = c10d::compute_bucket_assignment_by_size(
        params, {static_cast<size_t>(first_bucket_bytes), static_cast<size_t>(bucket_bytes)}, sparse);
    auto buckets = std::get<0>(assignment);
    std::reverse(buckets.begin(), buckets.end());  // gradients come last parameter first
    auto ranks = static_cast<GroupHandle*>(group)->group;
    c10d::verify_params_across_processes(ranks, params, std::nullopt);
    std::unordered_map<size_t, std::string> named;
    for (size_t i = 0; i < count; i++) named[i] = names[i];
    auto timed = std::make_unique<TimedReducer>(
        params, buckets, ranks, sparse, bucket_bytes, find_unused != 0, gradient_as_bucket_view != 0, named,
        first_bucket_bytes, /*skip_all_reduce_unused_params=*/false, /*use_python_reducer=*/false,
        std::vector<int64_t>{});
    timed->set_ddp_runtime_logging_sample_rate(1);
    return new ReducerHandle{std::move(timed)};
  });
}

int bt_reducer_before_forward(void* reducer, char** err) {
  return guarded(err, -1, [&]() -> int {
    auto& inner = static_cast<ReducerHandle*>(reducer)->reducer;
    inner->prepare_for_forward();
    return inner->rebuild_buckets();
  });
}

int bt_reducer_before_backward(void* reducer, at::Tensor* const* outputs, size_t count, char** err) {
  return guarded(err, -1, [&]() -> int {
    static_cast<ReducerHandle*>(reducer)->reducer->prepare_for_backward(listed(outputs, count));
    return 0;
  });
}

int64_t bt_reducer_buckets(void* reducer, char** err) {
  return guarded(err, -1, [&]() -> int64_t {
    return static_cast<int64_t>(static_cast<ReducerHandle*>(reducer)->reducer->get_grad_buckets().size());
  });
}

int64_t bt_reducer_exposed_ns(void* reducer, char** err) {
  return guarded(err, -2, [&]() -> int64_t { return static_cast<ReducerHandle*>(reducer)->reducer->exposed_ns(); });
}

void bt_reducer_free(void* reducer) {
  char* ignored = nullptr;
  guarded(&ignored, 0, [&]() -> int { delete static_cast<ReducerHandle*>(reducer); return 0; });
  free(ignored);
}

// ---- lists of tensors ----------------------------------------------------------------------------------------

// `step` is one float scalar for the whole list and already counts this update. A `found_inf` of 1 voids the update.
int bt_fused_adamw(at::Tensor* const* parameters, at::Tensor* const* gradients, at::Tensor* const* first_moments,
                   at::Tensor* const* second_moments, size_t count, at::Tensor* step, double lr, double beta1,
                   double beta2, double weight_decay, double eps, const at::Tensor* found_inf, char** err) {
  return guarded(err, -1, [&]() -> int {
    at::NoGradGuard no_grad;
    std::vector<at::Tensor> steps(count, *step);
    at::_fused_adamw_(listed(parameters, count), listed(gradients, count), listed(first_moments, count),
                      listed(second_moments, count), {}, steps, lr, beta1, beta2, weight_decay, eps,
                      /*amsgrad=*/false, /*maximize=*/false, std::nullopt, maybe(found_inf));
    return 0;
  });
}

at::Tensor* bt_foreach_norm(at::Tensor* const* tensors, size_t count, char** err) {
  return guarded(err, nullptr, [&]() -> at::Tensor* {
    at::NoGradGuard no_grad;
    return new at::Tensor(at::linalg_vector_norm(at::stack(at::_foreach_norm(listed(tensors, count), 2)), 2));
  });
}

int bt_foreach_scale(at::Tensor* const* tensors, size_t count, at::Tensor* factor, char** err) {
  return guarded(err, -1, [&]() -> int {
    at::NoGradGuard no_grad;
    at::_foreach_mul_(listed(tensors, count), *factor);
    return 0;
  });
}

int bt_foreach_zero(at::Tensor* const* tensors, size_t count, char** err) {
  return guarded(err, -1, [&]() -> int {
    at::NoGradGuard no_grad;
    at::_foreach_zero_(listed(tensors, count));
    return 0;
  });
}

int bt_amp_unscale(at::Tensor* const* tensors, size_t count, at::Tensor* found_inf, at::Tensor* inverse_scale,
                   char** err) {
  return guarded(err, -1, [&]() -> int {
    at::NoGradGuard no_grad;
    at::_amp_foreach_non_finite_check_and_unscale_(listed(tensors, count), *found_inf, *inverse_scale);
    return 0;
  });
}

at::Tensor* bt_linear(at::Tensor* x, at::Tensor* weight, at::Tensor* bias, char** err) {
  return guarded(err, nullptr, [&]() -> at::Tensor* {
    bool plain = x->is_cpu() && x->scalar_type() == at::kFloat && weight->scalar_type() == at::kFloat &&
                 !at::autocast::is_autocast_enabled(at::kCPU);
    if (plain && one_dnn()) return new at::Tensor(OneDnnLinear::apply(*x, *weight, *bias));
    return new at::Tensor(at::linear(*x, *weight, *bias));
  });
}

// ---- autocast, threads, CUDA ---------------------------------------------------------------------------------

int bt_autocast_enter(int cuda, int dtype, int* previous_enabled, int* previous_dtype, char** err) {
  return guarded(err, -1, [&]() -> int {
    auto device = autocast_device(cuda);
    *previous_enabled = at::autocast::is_autocast_enabled(device);
    *previous_dtype = static_cast<int>(at::autocast::get_autocast_dtype(device));
    at::autocast::set_autocast_dtype(device, static_cast<at::ScalarType>(dtype));
    at::autocast::set_autocast_enabled(device, true);
    at::autocast::set_autocast_cache_enabled(true);
    at::autocast::increment_nesting();
    return 0;
  });
}

void bt_autocast_leave(int cuda, int previous_enabled, int previous_dtype) {
  char* ignored = nullptr;
  guarded(&ignored, 0, [&]() -> int {
    auto device = autocast_device(cuda);
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(device, previous_enabled != 0);
    at::autocast::set_autocast_dtype(device, static_cast<at::ScalarType>(previous_dtype));
    return 0;
  });
  free(ignored);
}

int bt_set_threads(int threads, char** err) {
  return guarded(err, -1, [&]() -> int { at::set_num_threads(threads); return 0; });
}

int bt_threads(char** err) {
  return guarded(err, -1, [&]() -> int { return at::get_num_threads(); });
}

// Loads libtorch_cuda.so from the folder libtorch_cpu.so came from, or from wherever the loader finds it.
int bt_load_cuda(char** err) {
  return guarded(err, -1, [&]() -> int {
    Dl_info info;
    std::string beside;
    if (dladdr(reinterpret_cast<void*>(&at::set_num_threads), &info) && info.dli_fname) {
      beside = info.dli_fname;
      beside.resize(beside.rfind('/') == std::string::npos ? 0 : beside.rfind('/') + 1);
    }
    if (!beside.empty() && dlopen((beside + "libtorch_cuda.so").c_str(), RTLD_NOW | RTLD_GLOBAL)) return 0;
    std::string first = beside.empty() ? "" : dlerror();
    if (dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL)) return 0;
    throw std::runtime_error(first.empty() ? dlerror() : first);
  });
}

int64_t bt_cuda_devices(char** err) {
  return guarded(err, -1, [&]() -> int64_t {
    auto& hooks = at::detail::getCUDAHooks();
    return hooks.hasCUDA() ? static_cast<int64_t>(hooks.deviceCount()) : 0;
  });
}

}  // extern "C"
