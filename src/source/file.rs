//! Files: NDJSON, CSV, Avro object containers.
