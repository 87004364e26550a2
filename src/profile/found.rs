//! What was found from the rest of a state: at hand, not stored, and no part of what the state is.

#[derive(Debug, Clone, Copy)]
pub(super) struct Found<T>(Option<T>);

impl<T: Copy> Found<T> {
    pub fn of(value: T) -> Found<T> {
        Found(Some(value))
    }

    pub fn get(&self) -> Option<T> {
        self.0
    }

    /// To be called with every change of what it was found from.
    pub fn forget(&mut self) {
        self.0 = None;
    }
}

impl<T> Default for Found<T> {
    fn default() -> Self {
        Found(None)
    }
}

/// States are equal whether or not anybody has looked at them.
impl<T> PartialEq for Found<T> {
    fn eq(&self, _: &Found<T>) -> bool {
        true
    }
}
