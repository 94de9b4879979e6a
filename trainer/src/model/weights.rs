//! Making parameters under their names, and taking them over from a state dict.

use std::collections::HashMap;

use tch::{Device, Kind, Tensor};

use super::error::{ModelError, tensor};
use crate::init::Fill;

/// What parameters hold when they are made.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    /// Their own draws from this seed.
    Seed(u64),
    /// Anything: weights will be loaded.
    Blank,
    /// Names and shapes only, in no memory.
    Outline,
}

/// Collects parameters and buffers in the order in which a model asks for them, which is the state dict's.
#[derive(Debug)]
pub(super) struct Builder {
    source: Source,
    device: Device,
    parameters: Vec<(String, Tensor)>,
    buffers: Vec<(String, Tensor)>,
    order: Vec<String>,
}

/// Parameters, buffers, and the names of both in state-dict order.
type Built = (Vec<(String, Tensor)>, Vec<(String, Tensor)>, Vec<String>);

impl Builder {
    pub(super) fn new(source: Source, device: Device) -> Builder {
        Builder { source, device, parameters: Vec::new(), buffers: Vec::new(), order: Vec::new() }
    }

    pub(super) fn device(&self) -> Device {
        self.device
    }

    /// A trained tensor.
    pub(super) fn parameter(&mut self, name: &str, shape: &[i64], fill: Fill) -> Result<Tensor, ModelError> {
        let parameter = match self.source {
            Source::Seed(seed) => fill
                .tensor(seed, name, shape)?
                .f_to_device(self.device)
                .and_then(|values| values.f_set_requires_grad(true)),
            Source::Blank => Tensor::f_empty(shape, (Kind::Float, self.device))
                .and_then(|values| values.f_set_requires_grad(true)),
            // One number, repeated by strides of 0.
            Source::Outline => {
                Tensor::f_zeros([1], (Kind::Float, self.device)).and_then(|one| one.f_expand(shape, false))
            }
        }
        .map_err(tensor("making a parameter"))?;
        self.parameters.push((name.to_owned(), parameter.shallow_clone()));
        self.order.push(name.to_owned());
        Ok(parameter)
    }

    /// A tensor that follows from the sizes.
    pub(super) fn buffer(&mut self, name: &str, values: &Tensor) -> Result<Tensor, ModelError> {
        let buffer = values.f_to_device(self.device).map_err(tensor("making a buffer"))?;
        self.buffers.push((name.to_owned(), buffer.shallow_clone()));
        self.order.push(name.to_owned());
        Ok(buffer)
    }

    pub(super) fn finish(self) -> Built {
        (self.parameters, self.buffers, self.order)
    }
}

pub(super) fn state_dict(
    order: &[String],
    parameters: &[(String, Tensor)],
    buffers: &[(String, Tensor)],
) -> Vec<(String, Tensor)> {
    let named: HashMap<&str, &Tensor> = by_name(parameters.iter().chain(buffers));
    order.iter().filter_map(|name| Some((name.clone(), named.get(name.as_str())?.shallow_clone()))).collect()
}

pub(super) fn load(
    parameters: &[(String, Tensor)],
    buffers: &[(String, Tensor)],
    given: &[(String, Tensor)],
) -> Result<(), ModelError> {
    let mut differences = differences(parameters, buffers, given);
    let given = by_name(given);
    for (name, own) in buffers {
        if let Some(found) = given.get(name.as_str())
            && found.size() == own.size()
            && !equal(own, found)?
        {
            differences.push(format!("{name} holds other numbers than these sizes give"));
        }
    }
    if !differences.is_empty() {
        return Err(ModelError::Weights { differences: listed(&differences) });
    }
    copy_into(parameters, &given)
}

/// Copies `given` into `own`, name by name, through kinds and devices.
pub(crate) fn copy_into(own: &[(String, Tensor)], given: &HashMap<&str, &Tensor>) -> Result<(), ModelError> {
    let _no_grad = tch::no_grad_guard();
    for (name, tensor_of_ours) in own {
        let mut target = tensor_of_ours.shallow_clone();
        if let Some(source) = given.get(name.as_str()) {
            target.f_copy_(source).map_err(tensor("copying weights"))?;
        }
    }
    Ok(())
}

/// A look-up by name.
pub(crate) fn by_name<'a>(
    tensors: impl IntoIterator<Item = &'a (String, Tensor)>,
) -> HashMap<&'a str, &'a Tensor> {
    tensors.into_iter().map(|(name, tensor)| (name.as_str(), tensor)).collect()
}

/// What keeps `given` from being `required` (all of it) and `optional` (any of it), in words.
pub(crate) fn differences(
    required: &[(String, Tensor)],
    optional: &[(String, Tensor)],
    given: &[(String, Tensor)],
) -> Vec<String> {
    let mut differences = Vec::new();
    let found = by_name(given);
    for (name, own) in required.iter().chain(optional) {
        match found.get(name.as_str()) {
            Some(found) if found.size() == own.size() => {}
            Some(found) => {
                differences.push(format!("{name} has shape {:?}, not {:?}", found.size(), own.size()))
            }
            None if optional.iter().any(|(optional, _)| optional == name) => {}
            None => differences.push(format!("{name} is missing")),
        }
    }
    let known = by_name(required.iter().chain(optional));
    differences.extend(
        given
            .iter()
            .filter(|(name, _)| !known.contains_key(name.as_str()))
            .map(|(name, _)| format!("{name} is unknown")),
    );
    differences
}

/// The first few, and how many more.
pub(crate) fn listed(differences: &[String]) -> String {
    const SHOWN: usize = 6;
    let mut text = differences[..differences.len().min(SHOWN)].join(", ");
    if differences.len() > SHOWN {
        text += &format!(" and {} more", differences.len() - SHOWN);
    }
    text
}

fn equal(own: &Tensor, found: &Tensor) -> Result<bool, ModelError> {
    found
        .f_to_device(own.device())
        .and_then(|found| found.f_to_kind(Kind::Int64))
        .and_then(|found| own.f_equal(&found))
        .map_err(tensor("comparing a buffer"))
}
