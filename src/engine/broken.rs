//! Breaks the order of commits on purpose, so that the simulated world (`tests/it/sim`) can show that it notices. Only builds
//! with debug assertions can be broken; in others [`is`] is always false.

use std::cell::Cell;

/// What is done in the wrong order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Rows and deliveries leave before their commit is durable.
    EffectsFirst,
    /// A range is acknowledged before the sink has its rows.
    AcknowledgedFirst,
    /// Positions become durable in a commit of their own, before what was read up to them.
    PositionsFirst,
}

thread_local! {
    static BROKEN: Cell<Option<Order>> = const { Cell::new(None) };
}

/// Breaks the engines of this thread, or none of them any more.
#[cfg(debug_assertions)]
pub fn set(order: Option<Order>) {
    BROKEN.set(order);
}

pub(super) fn is(order: Order) -> bool {
    cfg!(debug_assertions) && BROKEN.get() == Some(order)
}
