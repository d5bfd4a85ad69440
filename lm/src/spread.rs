//! Numbers of a model that several processes hold together.

use tch::Tensor;

use crate::LmError;
use crate::params::Part;

/// How the parts of a model, each spread over several processes, come together and go apart again. All processes must make
/// the same calls in the same order.
pub trait Spread: std::fmt::Debug {
    /// The place of a part's numbers, [numel]: always the same tensor, whose memory is there from [`Self::gather`] to
    /// [`Self::release`]. Graphs are built on it.
    fn place(&self, part: Part) -> Tensor;

    /// Makes the part's numbers present at its place; nothing happens if they are. `next` will be wanted after it, and may
    /// come meanwhile.
    ///
    /// # Errors
    /// If memory does not suffice or another process is gone.
    fn gather(&self, part: Part, next: Option<Part>) -> Result<(), LmError>;

    /// The part is not needed for now. Weights are let go; gradients are summed, each process keeping its share.
    ///
    /// # Errors
    /// If another process is gone.
    fn release(&self, part: Part) -> Result<(), LmError>;
}
