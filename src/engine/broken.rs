//! Breaks the order of commits on purpose, so that the simulated world (`tests/it/sim`) can show that it notices. Only builds
//! with debug assertions can be broken; in others [`is`] is always false.

use std::cell::Cell;

use super::core::FillRecord;
use crate::state::keys::{self, Tag};
use crate::state::{Write, WriteBatch};

macro_rules! orders {
    ($($(#[doc = $doc:literal])* $order:ident,)*) => {
        /// What is done in the wrong order, or not with its commit.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Order {
            $($(#[doc = $doc])* $order,)*
        }

        impl Order {
            pub const ALL: &'static [Order] = &[$(Order::$order,)*];
        }
    };
}

orders! {
    /// Rows and deliveries leave before their commit is durable.
    EffectsFirst,
    /// A range is acknowledged before the sink has its rows.
    AcknowledgedFirst,
    /// A range of several commits is sent without having been recorded.
    RangeUnrecorded,
    /// Positions become durable in a commit of their own, before what was read up to them.
    PositionsFirst,
    /// The same, after it.
    PositionsLast,
    /// A commit is durable without its rows.
    WithoutRows,
    /// A commit is durable without its message ids.
    WithoutMessageIds,
    /// A commit is durable without the deliveries that it set off.
    WithoutDeliveries,
    /// A request that must not be repeated leaves without its beginning having been recorded.
    BegunUnrecorded,
    /// A fill's place in the history is durable before the events up to it.
    CursorFirst,
    /// A rebuild does not keep what comes live meanwhile.
    RebuildAlone,
    /// A commit is two: its first half, then the other.
    Halves,
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

/// What a commit's writes are committed as, one after the other: as they are, unless something is broken.
pub(super) fn commits(writes: WriteBatch) -> Vec<WriteBatch> {
    let order = BROKEN.get().filter(|_| cfg!(debug_assertions));
    let tagged = |tag: Tag| keys::prefix(tag);
    let apart = |is_apart: &dyn Fn(&bytes::Bytes) -> bool| {
        let puts = |write: &Write| matches!(write, Write::Put(key, _) if is_apart(key));
        let (apart, rest): (Vec<Write>, Vec<Write>) = writes.writes.iter().cloned().partition(puts);
        (WriteBatch { writes: apart }, WriteBatch { writes: rest })
    };
    let without = |tag: Tag| vec![apart(&|key| key.starts_with(&tagged(tag))).1];
    let parts = match order {
        Some(Order::PositionsFirst) => {
            let (positions, rest) = apart(&|key| key.starts_with(&tagged(Tag::Position)));
            vec![positions, rest]
        }
        Some(Order::PositionsLast) => {
            let (positions, rest) = apart(&|key| key.starts_with(&tagged(Tag::Position)));
            vec![rest, positions]
        }
        Some(Order::WithoutRows) => without(Tag::Outbox),
        Some(Order::WithoutMessageIds) => without(Tag::Dedupe),
        Some(Order::WithoutDeliveries) => without(Tag::Delivery),
        Some(Order::CursorFirst) => {
            let (cursor, rest) = apart(&|key| *key == keys::name(Tag::Engine, FillRecord::KEY));
            vec![cursor, rest]
        }
        Some(Order::RebuildAlone) => without(Tag::Rebuild),
        Some(Order::Halves) => {
            let (first, second) = writes.writes.split_at(writes.writes.len() / 2);
            vec![WriteBatch { writes: first.to_vec() }, WriteBatch { writes: second.to_vec() }]
        }
        _ => return vec![writes],
    };
    parts.into_iter().filter(|part| !part.is_empty()).collect()
}
