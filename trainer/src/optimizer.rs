//! AdamW with the reference's two groups, and a state that can be saved.

use std::collections::HashMap;

use beit_torch::{AdamW, clip_to_norm, foreach_norm, foreach_zero, fused_adamw};
use tch::{Kind, Tensor};

use crate::model::weights::{by_name, copy_into, differences, listed};
use crate::model::{ModelError, tensor};

/// AdamW's numbers for a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OptimizerOptions {
    /// Decay of the mean of gradients and of squared gradients.
    pub betas: (f64, f64),
    /// Added outside the bias-corrected square root.
    pub eps: f64,
    /// Of the group `decay`, until [`Optimizer::set`] says otherwise.
    pub weight_decay: f64,
}

impl Default for OptimizerOptions {
    /// The reference's: (0.9, 0.999), 1e-8, 0.05.
    fn default() -> Self {
        OptimizerOptions { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.05 }
    }
}

/// Parameters that are stepped alike.
#[derive(Debug)]
pub struct Group {
    /// `decay` or `no_decay`.
    pub name: String,
    /// Names, in the model's order.
    pub parameters: Vec<String>,
    /// What the learning rate is multiplied by; 1 in pre-training, lower below the head with layer decay.
    pub lr_scale: f64,
    /// Now.
    pub weight_decay: f64,
    /// Now, `lr_scale` included.
    pub lr: f64,
    tensors: Vec<Tensor>,
    first_moments: Vec<Tensor>,
    second_moments: Vec<Tensor>,
}

/// Steps a model's parameters.
#[derive(Debug)]
pub struct Optimizer {
    options: OptimizerOptions,
    groups: Vec<Group>,
    /// Names and tensors of all parameters, group by group.
    parameters: Vec<(String, Tensor)>,
    /// Updates made; f32 scalar on the parameters' device.
    step: Tensor,
}

/// Whether weight decay leaves a parameter alone: vectors, biases, `pos_embed` and `cls_token`.
///
/// `mask_token` and the relative position bias tables do decay, as in the reference (quirk Q27).
pub fn is_exempt(name: &str, shape: &[i64]) -> bool {
    shape.len() == 1 || name.ends_with(".bias") || matches!(name, "pos_embed" | "cls_token")
}

impl Optimizer {
    /// Groups the parameters, in order of first appearance, and starts with an empty state.
    ///
    /// With a `weight_decay` of 0 there still are two groups, where the reference crashes (quirk Q4).
    ///
    /// # Errors
    /// libtorch out of memory
    pub fn new(parameters: &[(String, Tensor)], options: OptimizerOptions) -> Result<Optimizer, ModelError> {
        let mut groups: Vec<Group> = Vec::new();
        for (name, parameter) in parameters {
            let (group, weight_decay) = match is_exempt(name, &parameter.size()) {
                true => ("no_decay", 0.0),
                false => ("decay", options.weight_decay),
            };
            let at = groups.iter().position(|known| known.name == group).unwrap_or_else(|| {
                groups.push(Group::empty(group, weight_decay));
                groups.len() - 1
            });
            groups[at].push(name, parameter)?;
        }
        let parameters = groups
            .iter()
            .flat_map(|group| group.parameters.iter().zip(&group.tensors))
            .map(|(name, tensor)| (name.clone(), tensor.shallow_clone()))
            .collect::<Vec<_>>();
        let device = parameters.first().map_or(tch::Device::Cpu, |(_, parameter)| parameter.device());
        let step = Tensor::f_zeros([0i64; 0], (Kind::Float, device)).map_err(tensor("counting updates"))?;
        Ok(Optimizer { options, groups, parameters, step })
    }

    /// The groups: `no_decay` first, since `cls_token` comes first.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Sets what the schedules say for the next update. Weight decay goes to groups that have some: one that has
    /// reached 0 stays there, as in the reference.
    pub fn set(&mut self, lr: f64, weight_decay: f64) {
        for group in &mut self.groups {
            group.lr = lr * group.lr_scale;
            if group.weight_decay > 0.0 {
                group.weight_decay = weight_decay;
            }
        }
    }

    /// Zeroes the gradients that there are, in place, so that they may be views into the reducer's buckets.
    ///
    /// # Errors
    /// libtorch's
    pub fn zero_grad(&self) -> Result<(), ModelError> {
        let gradients: Vec<Tensor> =
            self.parameters.iter().map(|(_, parameter)| parameter.grad()).filter(Tensor::defined).collect();
        match gradients.is_empty() {
            true => Ok(()),
            false => Ok(foreach_zero(&gradients)?),
        }
    }

    /// The norm of all gradients together, as a scalar on the device.
    ///
    /// # Errors
    /// [`ModelError::NoGradient`]
    pub fn grad_norm(&self) -> Result<Tensor, ModelError> {
        Ok(foreach_norm(&self.gradients()?)?)
    }

    /// Clips the gradients to norm `clip`, if given, and updates every parameter. Gives the norm before clipping, as a
    /// scalar on the device; nothing here waits for it.
    ///
    /// # Errors
    /// [`ModelError::NoGradient`] for a parameter that backward did not reach
    pub fn step(&mut self, clip: Option<f64>) -> Result<Tensor, ModelError> {
        let gradients = self.gradients()?;
        let norm = match clip {
            Some(most) => clip_to_norm(&gradients, most)?,
            None => foreach_norm(&gradients)?,
        };
        self.update(&gradients, None)?;
        Ok(norm)
    }

    /// Updates every parameter with `gradients`, which are in the order of [`Optimizer::gradients`]. Where `found_inf`
    /// (one f32) is 1, nothing changes and the update is not counted.
    ///
    /// # Errors
    /// lists that do not fit
    pub fn update(&mut self, gradients: &[Tensor], found_inf: Option<&Tensor>) -> Result<(), ModelError> {
        let _ = self.step.f_add_scalar_(1.0).map_err(tensor("counting updates"))?;
        let mut rest = gradients;
        for group in &self.groups {
            let (own, others) = rest.split_at(group.tensors.len().min(rest.len()));
            rest = others;
            let numbers = AdamW {
                lr: group.lr,
                beta1: self.options.betas.0,
                beta2: self.options.betas.1,
                weight_decay: group.weight_decay,
                eps: self.options.eps,
            };
            let (m, v) = (&group.first_moments, &group.second_moments);
            fused_adamw(&group.tensors, own, m, v, &self.step, numbers, found_inf)?;
        }
        if let Some(found_inf) = found_inf {
            let _ = self.step.f_sub_(found_inf).map_err(tensor("counting updates"))?;
        }
        Ok(())
    }

    /// The gradients, group by group.
    ///
    /// # Errors
    /// [`ModelError::NoGradient`]
    pub fn gradients(&self) -> Result<Vec<Tensor>, ModelError> {
        self.parameters
            .iter()
            .map(|(name, parameter)| {
                let gradient = parameter.f_grad().map_err(tensor("reading a gradient"))?;
                match gradient.defined() {
                    true => Ok(gradient),
                    false => Err(ModelError::NoGradient { name: name.clone() }),
                }
            })
            .collect()
    }

    /// The whole state by name: `step`, and `exp_avg.NAME` and `exp_avg_sq.NAME` for every parameter; handles, not
    /// copies.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let mut state = vec![("step".to_owned(), self.step.shallow_clone())];
        for group in &self.groups {
            for (index, name) in group.parameters.iter().enumerate() {
                state.push((format!("exp_avg.{name}"), group.first_moments[index].shallow_clone()));
                state.push((format!("exp_avg_sq.{name}"), group.second_moments[index].shallow_clone()));
            }
        }
        state
    }

    /// Takes over a saved state.
    ///
    /// # Errors
    /// [`ModelError::OptimizerState`] when a tensor is missing, unknown or of another shape; nothing is changed then
    pub fn load_state(&mut self, saved: &[(String, Tensor)]) -> Result<(), ModelError> {
        let state = self.state();
        let differences = differences(&state, &[], saved);
        if !differences.is_empty() {
            return Err(ModelError::OptimizerState { differences: listed(&differences) });
        }
        let saved: HashMap<&str, &Tensor> = by_name(saved);
        copy_into(&state, &saved)
    }
}

impl Group {
    fn empty(name: &str, weight_decay: f64) -> Group {
        Group {
            name: name.to_owned(),
            parameters: Vec::new(),
            lr_scale: 1.0,
            weight_decay,
            lr: 0.0,
            tensors: Vec::new(),
            first_moments: Vec::new(),
            second_moments: Vec::new(),
        }
    }

    fn push(&mut self, name: &str, parameter: &Tensor) -> Result<(), ModelError> {
        let zeros =
            || tch::no_grad(|| parameter.f_zeros_like()).map_err(tensor("making the optimizer's state"));
        self.first_moments.push(zeros()?);
        self.second_moments.push(zeros()?);
        self.parameters.push(name.to_owned());
        self.tensors.push(parameter.shallow_clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests;
