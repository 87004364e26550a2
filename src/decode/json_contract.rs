//! JSON objects whose shape an Avro record prescribes: each is checked against the contract, missing fields get the
//! contract's defaults, and what passed is decoded in bulk by arrow-json.

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::json::ReaderBuilder;

use super::contract::{CompiledContract, Fields, walk};
use super::json::each_text;
use super::json_text::{Token, Walker, write_string};
use super::{DecodeError, Decoded, reject};
use crate::event::RawBatch;

/// Reads objects under one contract.
pub struct ContractRows {
    contract: CompiledContract,
    schema: SchemaRef,
}

/// Collects the defaults of missing fields.
#[derive(Default)]
struct Defaults {
    /// Where the object's content begins, whether it is empty, and `"name":default`.
    missing: Vec<(usize, bool, String)>,
}

impl Fields for Defaults {
    type At = ();

    fn child(&self, _: (), _: &str) -> Option<()> {
        None
    }

    fn found(&mut self, _: (), _: Token<'_>, _: &str) {}

    fn defaulted(&mut self, open: usize, empty: bool, name: &str, default: &str) {
        let mut pair = String::new();
        write_string(&mut pair, name);
        pair.push(':');
        pair.push_str(default);
        self.missing.push((open, empty, pair));
    }
}

impl Defaults {
    /// Appends the text with the missing fields put in.
    fn complete(&mut self, text: &str, out: &mut Vec<u8>) {
        // Stable: the fields of one object keep their order.
        self.missing.sort_by_key(|(open, ..)| *open);
        let mut copied = 0;
        for (index, (open, empty, pair)) in self.missing.iter().enumerate() {
            out.extend_from_slice(&text.as_bytes()[copied..*open]);
            copied = *open;
            out.extend_from_slice(pair.as_bytes());
            let more = self.missing.get(index + 1).is_some_and(|(next, ..)| next == open);
            if more || !empty {
                out.push(b',');
            }
        }
        out.extend_from_slice(&text.as_bytes()[copied..]);
        out.push(b'\n');
    }
}

impl ContractRows {
    pub fn new(schema: &str) -> Result<Self, DecodeError> {
        let contract = CompiledContract::compile(schema).map_err(DecodeError::Schema)?;
        let schema = contract.arrow_schema().map_err(DecodeError::Schema)?;
        Ok(ContractRows { contract, schema })
    }

    pub fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    pub fn decode(&mut self, raw: &RawBatch) -> Decoded {
        let mut bytes = Vec::with_capacity(raw.bytes.len() + raw.records.len());
        let mut ends = Vec::with_capacity(raw.records.len());
        let (mut records, mut rejects) = each_text(raw, |text| {
            let mut walker = Walker::new(text);
            let mut defaults = Defaults::default();
            let token = walker.begin()?;
            walk(&mut walker, token, Some(&self.contract), &mut defaults, None)?;
            walker.end()?;
            defaults.complete(text, &mut bytes);
            ends.push(bytes.len());
            Ok(())
        });
        if let Ok(columns) = self.columns(&bytes, records.len()) {
            return Decoded { columns, records, rejects };
        }
        // A value of the right kind that its type cannot hold (a decimal with too many digits): found one by one.
        let mut batches = Vec::new();
        let mut start = 0;
        let mut ends = ends.into_iter();
        records.retain(|index| {
            let end = ends.next().unwrap_or(bytes.len());
            let row = self.columns(&bytes[start..end], 1);
            start = end;
            match row {
                Ok(row) => {
                    batches.push(row);
                    true
                }
                Err(error) => {
                    let record = &raw.records[*index as usize];
                    rejects.push(reject(raw, record, "contract", error.to_string(), None));
                    false
                }
            }
        });
        match concat_batches(&self.schema, &batches) {
            Ok(columns) => Decoded { columns, records, rejects },
            Err(error) => {
                let failed = records.iter().map(|index| &raw.records[*index as usize]);
                rejects.extend(failed.map(|record| reject(raw, record, "internal", error.to_string(), None)));
                Decoded { columns: RecordBatch::new_empty(self.schema.clone()), records: Vec::new(), rejects }
            }
        }
    }

    fn columns(&self, bytes: &[u8], rows: usize) -> Result<RecordBatch, ArrowError> {
        if rows == 0 {
            return Ok(RecordBatch::new_empty(self.schema.clone()));
        }
        // Numbers and booleans of a union with strings become text.
        let builder = ReaderBuilder::new(self.schema.clone()).with_batch_size(rows).with_coerce_primitive(true);
        let mut decoder = builder.build_decoder()?;
        let read = decoder.decode(bytes)?;
        let batch = decoder.flush()?.filter(|batch| read == bytes.len() && batch.num_rows() == rows);
        batch.ok_or_else(|| ArrowError::JsonError(format!("expected {rows} rows")))
    }
}
