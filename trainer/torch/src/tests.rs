//! The shim against libtorch: ranks are threads here, each with its own store client and group.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::{
    AdamW, Autocast, Backend, Op, ProcessGroup, Reducer, ReducerOptions, Store, TorchError, amp_unscale,
    clip_to_norm, cuda, foreach_norm, foreach_zero, fused_adamw, linear, set_threads, threads,
};
use tch::{Device, Kind, Tensor};

const PATIENCE: Duration = Duration::from_secs(30);

/// Runs `body` as rank 0 and as rank 1, in two threads, and gives both results.
fn two_ranks<T: Send + 'static>(
    timeout: Duration,
    body: impl Fn(u32, ProcessGroup) -> T + Send + Sync + 'static,
) -> [T; 2] {
    let store = Store::serve("127.0.0.1", 0, 2, PATIENCE).unwrap();
    let port = store.port().unwrap();
    let body = std::sync::Arc::new(body);
    let join = move |rank: u32, store: Store| {
        set_threads(1).unwrap();
        let store = store.prefixed("attempt_0").unwrap();
        ProcessGroup::join(&store, &Backend::local(), rank, 2, timeout).unwrap()
    };
    let other = {
        let (body, join) = (body.clone(), join);
        thread::spawn(move || {
            let store = Store::connect("127.0.0.1", port, 2, PATIENCE).unwrap();
            body(1, join(1, store))
        })
    };
    let first = body(0, join(0, store));
    [first, other.join().unwrap()]
}

fn floats(values: &[f32]) -> Tensor {
    Tensor::from_slice(values)
}

fn read(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(tensor.flatten(0, -1)).unwrap()
}

#[test]
fn a_store_hands_values_from_one_client_to_another() {
    let server = Store::serve("127.0.0.1", 0, 2, PATIENCE).unwrap();
    let port = server.port().unwrap();
    assert_ne!(port, 0);
    let client = Store::connect("127.0.0.1", port, 2, PATIENCE).unwrap();
    client.set("plan", b"\0 two \xff").unwrap();
    assert_eq!(server.get("plan").unwrap(), b"\0 two \xff");
    assert!(client.has("plan").unwrap() && !client.has("nothing").unwrap());
    client.set("nothing", b"").unwrap();
    assert_eq!(server.get("nothing").unwrap(), b"");
    assert_eq!(server.add("ready", 1).unwrap(), 1);
    assert_eq!(client.add("ready", 2).unwrap(), 3);
}

#[test]
fn a_prefix_keeps_attempts_apart() {
    let server = Store::serve("127.0.0.1", 0, 1, Duration::from_millis(300)).unwrap();
    let first = server.prefixed("attempt_0").unwrap();
    first.set("port", b"1").unwrap();
    let second = server.prefixed("attempt_1").unwrap();
    let error = second.get("port").unwrap_err().to_string();
    assert!(error.starts_with("reading port from the rendezvous store: "), "{error}");
    assert!(second.port().unwrap_err().to_string().contains("has a port"));
}

#[test]
fn a_taken_port_is_an_error_that_names_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = Store::serve("127.0.0.1", port, 1, Duration::from_secs(2)).unwrap_err().to_string();
    assert!(error.starts_with(&format!("serving the rendezvous store on 127.0.0.1:{port}: ")), "{error}");
    assert!(!error.contains("frame #"), "no C++ stack: {error}");
}

#[test]
fn a_name_with_a_nul_byte_is_refused() {
    let error = Store::serve("127.0.0.1\0x", 0, 1, PATIENCE).unwrap_err().to_string();
    assert!(error.contains("holds a NUL byte"), "{error}");
}

#[test]
fn two_ranks_reduce_broadcast_and_wait() {
    let results = two_ranks(PATIENCE, |rank, group| {
        let mine = rank as f32;
        let (sum, least, most) =
            (floats(&[mine + 1.0, 10.0]), floats(&[mine, 5.0 - mine]), floats(&[mine, 5.0 - mine]));
        group.all_reduce(&sum, Op::Sum).unwrap().wait().unwrap();
        group.all_reduce(&least, Op::Min).unwrap().wait().unwrap();
        group.all_reduce(&most, Op::Max).unwrap().wait_at_most(PATIENCE).unwrap();
        let weights = floats(&[mine; 3]).set_requires_grad(true); // a parameter, as at the start of a run
        group.broadcast(&weights, 1).unwrap().wait().unwrap();
        group.barrier(PATIENCE).unwrap();
        group.roll_call(PATIENCE).unwrap();
        (read(&sum), read(&least), read(&most), read(&weights.detach()))
    });
    for (sum, least, most, weights) in results {
        assert_eq!(sum, [3.0, 20.0]);
        assert_eq!(least, [0.0, 4.0]);
        assert_eq!(most, [1.0, 5.0]);
        assert_eq!(weights, [1.0; 3]);
    }
}

#[test]
fn a_rank_that_dies_is_an_error_for_the_other_long_before_the_timeout() {
    let results = two_ranks(PATIENCE, |rank, group| {
        group.barrier(PATIENCE).unwrap();
        if rank == 1 {
            drop(group); // its connections close, as when its process dies
            return (Duration::ZERO, String::new());
        }
        let began = Instant::now();
        let failed = group.all_reduce(&floats(&[1.0]), Op::Sum).and_then(|work| work.wait());
        (began.elapsed(), failed.unwrap_err().to_string())
    });
    let (waited, error) = &results[0];
    assert!(*waited < PATIENCE / 2, "{waited:?}");
    assert!(error.contains("onnection"), "{error}");
}

#[test]
fn a_rank_that_hangs_is_an_error_for_the_other_after_the_timeout() {
    let (release, held) = mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let release = std::sync::Mutex::new(Some(release));
    let results = two_ranks(Duration::from_secs(1), move |rank, group| {
        if rank == 1 {
            let _ = held.lock().unwrap().recv_timeout(PATIENCE); // alive, silent
            return String::new();
        }
        let failed = group.all_reduce(&floats(&[1.0]), Op::Sum).and_then(|work| work.wait());
        release.lock().unwrap().take();
        failed.unwrap_err().to_string()
    });
    assert!(results[0].contains("imed out"), "{}", results[0]);
}

#[test]
fn roll_call_names_the_missing_rank() {
    let (release, held) = mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let release = std::sync::Mutex::new(Some(release));
    let results = two_ranks(PATIENCE, move |rank, group| {
        if rank == 1 {
            let _ = held.lock().unwrap().recv_timeout(PATIENCE);
            return String::new();
        }
        let failed = group.roll_call(Duration::from_millis(500));
        release.lock().unwrap().take();
        failed.unwrap_err().to_string()
    });
    assert!(results[0].contains("Ranks 1 failed"), "{}", results[0]);
}

#[test]
fn joining_without_the_others_ends_with_the_timeout() {
    let store = Store::serve("127.0.0.1", 0, 2, Duration::from_millis(500)).unwrap();
    let error = ProcessGroup::join(&store, &Backend::local(), 0, 2, Duration::from_millis(500)).unwrap_err();
    assert!(error.to_string().starts_with("joining as rank 0 of 2 with Gloo"), "{error}");
}

#[test]
#[ignore = "needs the plug-in and a libtorch with CUDA, but no GPU: BEIT_NCCL=…/libbeit_nccl.so"]
fn a_plug_in_without_a_gpu_is_a_clear_error() {
    let plugin = std::env::var("BEIT_NCCL").unwrap();
    let store = Store::serve("127.0.0.1", 0, 1, PATIENCE).unwrap();
    let backend = Backend::Nccl { plugin, device: 0 };
    let error = ProcessGroup::join(&store, &backend, 0, 1, PATIENCE).unwrap_err().to_string();
    println!("{error}");
    assert!(error.contains("CUDA") && !error.contains("frame #"), "{error}");
}

#[test]
fn a_missing_nccl_plug_in_is_a_clear_error() {
    let store = Store::serve("127.0.0.1", 0, 1, PATIENCE).unwrap();
    let backend = Backend::Nccl { plugin: "/nowhere/libbeit_nccl.so".to_owned(), device: 0 };
    let error = ProcessGroup::join(&store, &backend, 0, 1, PATIENCE).unwrap_err().to_string();
    assert!(error.contains("/nowhere/libbeit_nccl.so: cannot open shared object file"), "{error}");
}

/// A little network: [8, 16] → GELU → [16, 4], the same on every rank.
fn network() -> Vec<(String, Tensor)> {
    let filled = |shape: &[i64], scale: f64| {
        let count: i64 = shape.iter().product();
        let values = (Tensor::arange(count, (Kind::Float, Device::Cpu)) * scale).sin() * 0.3;
        values.view(shape).set_requires_grad(true)
    };
    vec![
        ("w1".to_owned(), filled(&[16, 8], 0.7)),
        ("b1".to_owned(), filled(&[16], 1.3)),
        ("w2".to_owned(), filled(&[4, 16], 0.9)),
    ]
}

/// The loss on a batch of its own for each rank and step.
fn loss(network: &[(String, Tensor)], rank: u32, step: u32) -> Tensor {
    let input = (Tensor::arange(24, (Kind::Float, Device::Cpu)) * (0.3 + f64::from(rank + 2 * step))).sin();
    let wide = input.view([3, 8]).linear(&network[0].1, Some(&network[1].1)).gelu("none");
    wide.linear(&network[2].1, None::<&Tensor>).square().mean(Kind::Float)
}

fn gradients(network: &[(String, Tensor)]) -> Vec<Vec<f32>> {
    network.iter().map(|(_, parameter)| read(&parameter.grad())).collect()
}

/// The mean over both ranks of the gradients, without any communication.
fn mean_gradients(step: u32) -> Vec<Vec<f32>> {
    let model = network();
    ((loss(&model, 0, step) + loss(&model, 1, step)) * 0.5).backward();
    gradients(&model)
}

#[track_caller]
fn close(found: &[Vec<f32>], expect: &[Vec<f32>]) {
    assert_eq!(found.len(), expect.len());
    for (found, expect) in found.iter().zip(expect) {
        assert_eq!(found.len(), expect.len());
        for (found, expect) in found.iter().zip(expect) {
            assert!((found - expect).abs() <= 1e-7 + 1e-5 * expect.abs(), "{found} against {expect}");
        }
    }
}

fn check_reducer(gradient_as_bucket_view: bool) {
    let results = two_ranks(PATIENCE, move |rank, group| {
        let model = network();
        // Buckets of 64 bytes, so that there are several, and they are ordered anew after the first step.
        let options = ReducerOptions {
            first_bucket_bytes: 64,
            bucket_bytes: 64,
            gradient_as_bucket_view,
            ..ReducerOptions::default()
        };
        let reducer = Reducer::new(&group, &model, options).unwrap();
        let mut rebuilt = Vec::new();
        let steps = (0..3).map(|step| {
            let old: Vec<Tensor> =
                model.iter().map(|(_, parameter)| parameter.grad()).filter(Tensor::defined).collect();
            if !old.is_empty() {
                foreach_zero(&old).unwrap();
            }
            rebuilt.push(reducer.before_forward().unwrap());
            let loss = loss(&model, rank, step);
            reducer.before_backward(&[]).unwrap();
            loss.f_backward().unwrap();
            gradients(&model)
        });
        let steps: Vec<_> = steps.collect();
        assert!(reducer.buckets().unwrap() > 1);
        drop(reducer);
        (steps, rebuilt)
    });
    for (steps, rebuilt) in results {
        for (step, found) in steps.iter().enumerate() {
            close(found, &mean_gradients(step as u32));
        }
        assert_eq!(rebuilt, [false, true, false]);
    }
}

#[test]
fn the_reducer_gives_the_mean_of_gradients() {
    check_reducer(false);
}

#[test]
fn the_reducer_gives_the_mean_of_gradients_in_bucket_views() {
    check_reducer(true);
}

#[test]
fn the_rank_that_is_done_first_is_the_one_that_waits_for_gradients() {
    let waits = two_ranks(PATIENCE, |rank, group| {
        let model = network();
        let reducer = Reducer::new(&group, &model, ReducerOptions::default()).unwrap();
        let before = reducer.exposed().unwrap();
        reducer.before_forward().unwrap();
        let loss = loss(&model, rank, 0);
        reducer.before_backward(&[]).unwrap();
        if rank == 1 {
            std::thread::sleep(Duration::from_secs(1));
        }
        loss.f_backward().unwrap();
        (before, reducer.exposed().unwrap())
    });
    let [(before, early), (_, late)] = waits;
    assert_eq!(before.unwrap_or_default(), Duration::ZERO, "nothing was waited for yet");
    assert!(early > Some(Duration::from_millis(300)) && early > late, "{early:?} and {late:?}");
}

#[test]
fn a_rank_that_dies_in_backward_is_an_error_for_the_other() {
    let results = two_ranks(PATIENCE, |rank, group| {
        let model = network();
        let reducer = Reducer::new(&group, &model, ReducerOptions::default()).unwrap();
        if rank == 1 {
            drop(reducer);
            drop(group);
            return String::new();
        }
        reducer.before_forward().unwrap();
        let loss = loss(&model, rank, 0);
        reducer.before_backward(&[]).unwrap();
        loss.f_backward().unwrap_err().to_string()
    });
    assert!(results[0].contains("onnection"), "{}", results[0]);
}

#[test]
fn ranks_with_different_models_are_told_so() {
    let results = two_ranks(PATIENCE, |rank, group| {
        let mut model = network();
        if rank == 1 {
            model.pop();
        }
        Reducer::new(&group, &model, ReducerOptions::default()).err().map(|error| error.to_string())
    });
    let error = results.into_iter().flatten().next().unwrap();
    assert!(error.starts_with("preparing to average"), "{error}");
}

#[test]
fn fused_adamw_equals_adamw_written_out_in_f64() {
    let n = 1000;
    let value = |i: usize, scale: f64| (i as f64 * scale).sin();
    let mut p: Vec<f64> = (0..n).map(|i| f64::from(value(i, 0.37) as f32)).collect();
    let (mut m, mut v) = (vec![0.0f64; n], vec![0.0f64; n]);
    let as_tensor = |values: &[f64]| Tensor::from_slice(values).to_kind(Kind::Float);
    let parameter = as_tensor(&p);
    let (first, second) = (parameter.zeros_like(), parameter.zeros_like());
    for t in 1..=20 {
        let g: Vec<f64> =
            (0..n).map(|i| f64::from((value(i, 1.7) * f64::from(t).cos()) as f32) * 0.01).collect();
        let numbers =
            AdamW { lr: 1e-3 * f64::from(t), beta1: 0.9, beta2: 0.98, weight_decay: 0.05, eps: 1e-8 };
        let (bc1, bc2) = (1.0 - 0.9f64.powi(t), 1.0 - 0.98f64.powi(t));
        for i in 0..n {
            p[i] *= 1.0 - numbers.lr * numbers.weight_decay;
            m[i] += (1.0 - numbers.beta1) * (g[i] - m[i]);
            v[i] = numbers.beta2 * v[i] + (1.0 - numbers.beta2) * g[i] * g[i];
            p[i] -= numbers.lr / bc1 * m[i] / ((v[i] / bc2).sqrt() + numbers.eps);
        }
        let lists = [&parameter, &first, &second].map(|tensor| vec![tensor.shallow_clone()]);
        let step = Tensor::from(t as f32);
        fused_adamw(&lists[0], &[as_tensor(&g)], &lists[1], &lists[2], &step, numbers, None).unwrap();
    }
    let found = read(&parameter);
    let worst = (0..n).map(|i| (f64::from(found[i]) - p[i]).abs()).fold(0.0, f64::max);
    assert!(worst < 2e-6, "{worst:e}");
    assert!(p.iter().zip(&found).any(|(p, found)| (p - value(0, 0.37)).abs() > 0.1 && found.is_finite()));
}

#[test]
fn a_void_update_changes_nothing() {
    let (p, g) = (floats(&[1.0, -2.0]), floats(&[f32::INFINITY, 1.0]));
    let (m, v) = (p.zeros_like(), p.zeros_like());
    let numbers = AdamW { lr: 0.1, beta1: 0.9, beta2: 0.999, weight_decay: 0.05, eps: 1e-8 };
    let lists = [&p, &g, &m, &v].map(|tensor| vec![tensor.shallow_clone()]);
    let found_inf = Tensor::from(1f32);
    let step = Tensor::from(1f32);
    fused_adamw(&lists[0], &lists[1], &lists[2], &lists[3], &step, numbers, Some(&found_inf)).unwrap();
    assert_eq!((read(&p), read(&m), read(&v)), (vec![1.0, -2.0], vec![0.0; 2], vec![0.0; 2]));
}

#[test]
fn lists_of_different_length_are_refused() {
    let numbers = AdamW { lr: 0.1, beta1: 0.9, beta2: 0.999, weight_decay: 0.0, eps: 1e-8 };
    let one = || vec![floats(&[1.0])];
    let error =
        fused_adamw(&one(), &one(), &[], &one(), &Tensor::from(1f32), numbers, None).unwrap_err().to_string();
    assert!(error.contains("the list of first moments has 0 tensors, expected 1"), "{error}");
}

#[test]
fn clipping_gives_the_norm_before_and_leaves_small_gradients_alone() {
    let large = [floats(&[3.0]), floats(&[0.0, 4.0])];
    assert_eq!(read(&clip_to_norm(&large, 1.0).unwrap()), [5.0]);
    assert!((read(&large[0])[0] - 0.6).abs() < 1e-6 && (read(&large[1])[1] - 0.8).abs() < 1e-6);
    let small = [floats(&[0.3]), floats(&[0.4])];
    let _ = clip_to_norm(&small, 1.0).unwrap();
    assert_eq!((read(&small[0]), read(&small[1])), (vec![0.3], vec![0.4]));
    assert!(foreach_norm(&[]).is_err());
}

#[test]
fn unscaling_finds_what_is_not_finite() {
    let inverse = Tensor::from(0.5f32);
    for (gradient, expect) in [(4.0, 0.0), (f32::NAN, 1.0), (f32::INFINITY, 1.0)] {
        let gradients = [floats(&[2.0]), floats(&[gradient])];
        let found = Tensor::from(0f32);
        amp_unscale(&gradients, &found, &inverse).unwrap();
        assert_eq!(read(&found), [expect]);
        assert_eq!(read(&gradients[0]), [1.0]);
    }
}

#[test]
fn autocast_makes_products_small_until_it_is_dropped() {
    let (a, b) =
        (Tensor::ones([4, 4], (Kind::Float, Device::Cpu)), Tensor::eye(4, (Kind::Float, Device::Cpu)));
    {
        let _small = Autocast::enter(Device::Cpu, Kind::BFloat16).unwrap();
        assert_eq!(a.matmul(&b).kind(), Kind::BFloat16);
        {
            let _inner = Autocast::enter(Device::Cpu, Kind::Half).unwrap();
            assert_eq!(a.matmul(&b).kind(), Kind::Half);
        }
        assert_eq!(a.matmul(&b).kind(), Kind::BFloat16);
    }
    assert_eq!(a.matmul(&b).kind(), Kind::Float);
    let error = Autocast::enter(Device::Cpu, Kind::Double).unwrap_err().to_string();
    assert!(error.contains("only BFloat16 and Half"), "{error}");
}

#[test]
fn threads_are_counted_and_none_is_refused() {
    set_threads(2).unwrap();
    assert_eq!(threads().unwrap(), 2);
    set_threads(1).unwrap();
    assert_eq!(threads().unwrap(), 1);
    assert!(set_threads(0).unwrap_err().to_string().starts_with("using 0 threads: "));
}

#[test]
fn a_machine_without_cuda_has_no_gpus_and_says_why() {
    assert_eq!(cuda::devices().unwrap(), 0, "asked before loading");
    match cuda::load() {
        Ok(()) => assert!(cuda::devices().is_ok()),
        Err(error) => {
            let error = error.to_string();
            assert!(error.contains("libtorch_cuda.so") && error.contains("--device cpu"), "{error}");
            assert_eq!(cuda::devices().unwrap(), 0);
        }
    }
}

#[test]
fn a_linear_layer_has_libtorchs_values_and_gradients() {
    for kind in [Kind::Float, Kind::Double] {
        let fresh = |shape: &[i64]| Tensor::randn(shape, (kind, Device::Cpu)).set_requires_grad(true);
        let (x, weight, bias) = (fresh(&[2, 5, 24]), fresh(&[40, 24]), fresh(&[40]));
        let goal = Tensor::randn([2, 5, 40], (kind, Device::Cpu));
        let run = |out: Tensor| {
            (&out * &goal).sum(kind).backward();
            let all = [&x, &weight, &bias].map(|tensor| {
                let mut held = tensor.grad();
                let copy = held.copy();
                let _ = held.zero_();
                copy
            });
            (out, all)
        };
        let (own, own_gradients) = run(linear(&x, &weight, &bias).unwrap());
        let (theirs, gradients) = run(x.linear(&weight, Some(&bias)));
        assert!(own.allclose(&theirs, 1e-5, 1e-5, false));
        for (own, theirs) in own_gradients.iter().zip(&gradients) {
            assert!(own.abs().sum(kind).double_value(&[]) > 0.0 && own.allclose(theirs, 1e-4, 1e-5, false));
        }
    }
    let x = Tensor::ones([2, 3], (Kind::Float, Device::Cpu));
    let error = linear(
        &x,
        &Tensor::ones([4, 5], (Kind::Float, Device::Cpu)),
        &Tensor::ones([4], (Kind::Float, Device::Cpu)),
    );
    assert!(error.unwrap_err().to_string().starts_with("multiplying [2, 3] by a weight of [4, 5]: "));
}

#[test]
fn a_cause_is_in_an_errors_words_and_not_behind_them_too() {
    let error = TorchError::tch("reading weights")(tch::TchError::Convert("no tensor".to_owned()));
    let words = error.to_string();
    assert!(words.starts_with("reading weights: ") && words.ends_with("no tensor"), "{words}");
    assert!(std::error::Error::source(&error).is_none(), "whoever prints a whole chain would print it twice");
}
