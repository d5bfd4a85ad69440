//! A model that is stored in host memory and runs on a device.

use std::cell::Cell;

use chat::completer::{CompleterError, Done, Failures, Usage};
use chat::{Completer, Completion, CompletionRequest};
use tch::Device;

use crate::{Decoder, LmError, LocalModel, Params};

/// A model whose weights are copied to a device for each call. If the device is the CPU, no copy is made.
#[derive(Debug)]
pub struct Offloaded {
    host: LocalModel,
    device: Device,
    /// Of the copies on the device.
    usage: Cell<Usage>,
}

impl Offloaded {
    /// Wraps `model`, which is on the CPU, to run on `device`.
    ///
    /// # Errors
    /// If host memory cannot be pinned.
    pub fn new(mut model: LocalModel, device: Device) -> Result<Self, LmError> {
        if device.is_cuda() {
            // Copies from pinned memory overlap with other work.
            let flat = model.decoder.params.flat.f_pin_memory(device)?;
            model.decoder.params.flat = flat;
        }
        Ok(Self { host: model, device, usage: Cell::default() })
    }

    fn on_device(&self) -> Result<LocalModel, LmError> {
        let resting = &self.host.decoder.params;
        let params = Params::uninitialized(resting.spec(), resting.flat.kind(), self.device)?;
        tch::no_grad(|| params.flat.shallow_clone().copy_(&resting.flat));
        let mut model = LocalModel::new(self.host.name(), Decoder::new(params), self.host.tokenizer.clone())?;
        model.limits = self.host.limits;
        Ok(model)
    }

    /// Calls the model on the device.
    fn run<T>(&self, call: impl FnOnce(&LocalModel) -> Result<T, CompleterError>) -> Result<T, CompleterError> {
        if self.device == self.host.decoder.device() {
            return call(&self.host);
        }
        let model = self.on_device().map_err(|e| e.into_completer_error(self.name()))?;
        let result = call(&model);
        self.usage.set(self.usage.get().plus(model.usage()));
        result
    }
}

impl Completer for Offloaded {
    fn complete(&self, requests: &[CompletionRequest]) -> Result<Vec<Completion>, CompleterError> {
        self.run(|model| model.complete(requests))
    }

    fn complete_each(&self, requests: &[CompletionRequest]) -> Result<Vec<Result<Completion, String>>, CompleterError> {
        self.complete_with(requests, Failures::Keep, &mut |_, _| Ok(()))
    }

    fn complete_with(
        &self,
        requests: &[CompletionRequest],
        failures: Failures,
        done: &mut Done<'_>,
    ) -> Result<Vec<Result<Completion, String>>, CompleterError> {
        self.run(|model| model.complete_with(requests, failures, done))
    }

    fn name(&self) -> &str {
        self.host.name()
    }

    fn usage(&self) -> Usage {
        self.host.usage().plus(self.usage.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tests the copy to the device. A second copy on the CPU replaces the device.
    #[test]
    fn the_copy_on_the_device_is_the_model() {
        let tokenizer = chat::tokenizer::Tokenizer::train(["warm stories about space"].into_iter(), 300).unwrap();
        let spec = crate::ModelConfig { vocab_size: 320, ..crate::spec::tests::spec() };
        let decoder = Decoder::new(Params::random(&spec, 0.1, 1, Device::Cpu).unwrap());
        let offloaded = Offloaded::new(LocalModel::new("judge", decoder, tokenizer).unwrap(), Device::Cpu).unwrap();
        let copy = offloaded.on_device().unwrap();
        assert_eq!(copy.decoder.params.flat, offloaded.host.decoder.params.flat);
        assert_ne!(copy.decoder.params.flat.data_ptr(), offloaded.host.decoder.params.flat.data_ptr());
    }
}
