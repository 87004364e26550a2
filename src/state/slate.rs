//! The store on SlateDB: an LSM on object storage, a local folder by default.
