//! A model that rests in the host's memory and works on a device.

use chat::completer::CompleterError;
use chat::{Completer, Completion, CompletionRequest};
use tch::Device;

use crate::{Decoder, LmError, LocalModel, Params};

/// A model whose weights come to a device for each call. Where the device is the CPU they are there already.
#[derive(Debug)]
pub struct Offloaded {
    host: LocalModel,
    device: Device,
}

impl Offloaded {
    /// `model`, on the CPU, to work on `device`.
    ///
    /// # Errors
    /// If the host has no memory to pin.
    pub fn new(mut model: LocalModel, device: Device) -> Result<Self, LmError> {
        if device.is_cuda() {
            // Copies from pinned memory run beside other work.
            let flat = model.decoder.params.flat.f_pin_memory(device)?;
            model.decoder.params.flat = flat;
        }
        Ok(Self { host: model, device })
    }

    fn on_device(&self) -> Result<LocalModel, LmError> {
        let resting = &self.host.decoder.params;
        let params = Params::uninitialized(resting.spec(), resting.flat.kind(), self.device)?;
        tch::no_grad(|| params.flat.shallow_clone().copy_(&resting.flat));
        let mut model = LocalModel::new(self.host.name(), Decoder::new(params), self.host.tokenizer.clone())?;
        model.limits = self.host.limits;
        Ok(model)
    }
}

impl Completer for Offloaded {
    fn complete(&self, requests: &[CompletionRequest]) -> Result<Vec<Completion>, CompleterError> {
        if self.device == self.host.decoder.device() {
            return self.host.complete(requests);
        }
        self.on_device().map_err(|e| CompleterError::Model(e.to_string()))?.complete(requests)
    }

    fn name(&self) -> &str {
        self.host.name()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The way over a device, with another copy on the CPU in the device's place.
    #[test]
    fn the_copy_on_the_device_is_the_model() {
        let tokenizer = chat::tokenizer::Tokenizer::train(["warm stories about space"].into_iter(), 300).unwrap();
        let spec = crate::ModelSpec { vocab_size: 320, ..crate::spec::tests::spec() };
        let decoder = Decoder::new(Params::random(&spec, 0.1, 1, Device::Cpu).unwrap());
        let offloaded = Offloaded::new(LocalModel::new("judge", decoder, tokenizer).unwrap(), Device::Cpu).unwrap();
        let copy = offloaded.on_device().unwrap();
        assert_eq!(copy.decoder.params.flat, offloaded.host.decoder.params.flat);
        assert_ne!(copy.decoder.params.flat.data_ptr(), offloaded.host.decoder.params.flat.data_ptr());
    }
}
