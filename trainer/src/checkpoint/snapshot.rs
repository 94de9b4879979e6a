//! A copy of what a checkpoint holds, taken between two steps, so that it can be written while the next ones run.

use tch::{Device, Tensor};

use crate::error::{TrainError, torch};
use crate::step::Tensors;

/// Host memory for one checkpoint: it is made at the first and used again for all that follow.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    /// Parameters and buffers.
    pub model: Tensors,
    /// The optimizer's state.
    pub optimizer: Tensors,
}

impl Snapshot {
    /// Takes over all numbers; whatever was held before is gone.
    ///
    /// # Errors
    /// libtorch out of memory, the first time
    pub(crate) fn take(&mut self, model: &Tensors, optimizer: &Tensors) -> Result<(), TrainError> {
        copy(&mut self.model, model)?;
        copy(&mut self.optimizer, optimizer)
    }
}

fn copy(own: &mut Tensors, from: &Tensors) -> Result<(), TrainError> {
    let _no_grad = tch::no_grad_guard();
    let doing = "copying the weights for a checkpoint";
    if own.len() != from.len() {
        own.clear(); // Also what an attempt left that ran out of memory.
        for (name, tensor) in from {
            let made = Tensor::f_empty(tensor.size(), (tensor.kind(), Device::Cpu)).map_err(torch(doing))?;
            own.push((name.clone(), made));
        }
    }
    for ((_, own), (_, from)) in own.iter_mut().zip(from) {
        own.f_copy_(from).map_err(torch(doing))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_keeps_its_numbers_and_its_memory() {
        let weights = || vec![("w".to_owned(), Tensor::from_slice(&[1f32, 2.0]).set_requires_grad(true))];
        let (model, optimizer) = (weights(), vec![("step".to_owned(), Tensor::from(3f32))]);
        let mut snapshot = Snapshot::default();
        snapshot.take(&model, &optimizer).unwrap();
        let memory = snapshot.model[0].1.data_ptr();
        tch::no_grad(|| {
            let _ = model[0].1.shallow_clone().fill_(7.0);
        });
        assert_eq!(Vec::<f32>::try_from(&snapshot.model[0].1).unwrap(), [1.0, 2.0]);
        snapshot.take(&model, &optimizer).unwrap();
        assert_eq!(Vec::<f32>::try_from(&snapshot.model[0].1).unwrap(), [7.0, 7.0]);
        assert_eq!(snapshot.model[0].1.data_ptr(), memory);
        assert!(!snapshot.model[0].1.requires_grad());
    }
}
