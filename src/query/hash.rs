//! ClickHouse's `SHA256` of a text and `hex` of a binary for the lake; null for null. With both a sample's members can be
//! found in SQL.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BinaryBuilder, StringBuilder};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::{ColumnarValue, ScalarUDF, Volatility, create_udf};
use sha2::{Digest, Sha256};

pub fn functions() -> [ScalarUDF; 2] {
    let function = |name: &str, takes: DataType, returns: DataType, body: fn(&BinaryArray) -> ArrayRef| {
        let call = move |arguments: &[ColumnarValue]| {
            let columns = ColumnarValue::values_to_arrays(arguments)?;
            let [value] = columns.as_slice() else { return exec_err!("one value is hashed at a time") };
            Ok(ColumnarValue::Array(body(cast(value, &DataType::Binary)?.as_binary::<i32>())))
        };
        let call: Arc<dyn Fn(&[ColumnarValue]) -> Result<ColumnarValue> + Send + Sync> = Arc::new(call);
        create_udf(name, vec![takes], returns, Volatility::Immutable, call)
    };
    // The planner looks names up in lower case unless they are quoted.
    [
        function("SHA256", DataType::Utf8, DataType::Binary, sha256).with_aliases(["sha256"]),
        function("hex", DataType::Binary, DataType::Utf8, hex),
    ]
}

fn sha256(values: &BinaryArray) -> ArrayRef {
    let mut hashes = BinaryBuilder::new();
    values.iter().for_each(|value| hashes.append_option(value.map(Sha256::digest)));
    Arc::new(hashes.finish())
}

fn hex(values: &BinaryArray) -> ArrayRef {
    let mut texts = StringBuilder::new();
    for row in 0..values.len() {
        if values.is_null(row) {
            texts.append_null();
            continue;
        }
        for byte in values.value(row) {
            // Writing into a text cannot fail.
            let _ = write!(texts, "{byte:02X}");
        }
        texts.append_value("");
    }
    Arc::new(texts.finish())
}
