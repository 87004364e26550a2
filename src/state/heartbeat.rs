//! Who is running on this state: a small object that the running process renews.
