//! What sets and counts of values need to know of one.

use super::accumulator::Scalar;

/// Both zeros are one value, as they are to the engines that compare them.
pub(super) fn one_zero(value: Scalar) -> Scalar {
    match value {
        Scalar::Double(double) => Scalar::Double(if double == 0.0 { 0.0 } else { double }),
        value => value,
    }
}

/// Bytes on the heap.
pub(super) fn heap(value: &Scalar) -> usize {
    if let Scalar::Text(text) = value { text.len() } else { 0 }
}
