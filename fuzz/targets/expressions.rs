//! Expressions: whatever is written, it is refused with a place or has a value for every row, and the same one in DataFusion.

use std::cell::RefCell;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, ListArray, RecordBatch, StringArray, StructArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};
use datafusion::prelude::{SessionConfig, SessionContext};
use tributary::expression::parts::Part;
use tributary::expression::{ColumnScope, Dialect, Expression, NOW_COLUMN, Resolved, parse_path};

/// Rows of values at borders; one more is made of the input.
const LONGS: [Option<i64>; 8] = [None, Some(0), Some(1), Some(-1), Some(7), Some(i64::MIN), Some(i64::MAX), Some(2026)];
const DOUBLES: [Option<f64>; 8] =
    [None, Some(0.0), Some(-0.0), Some(2.5), Some(f64::NAN), Some(f64::INFINITY), Some(-1e300), Some(1e-7)];
const TEXTS: [Option<&str>; 8] = [
    None,
    Some(""),
    Some("Grüße 7"),
    Some("a,b,c"),
    Some("日本語🎉é"),
    Some("2024-02-29T23:59:59.999999Z"),
    Some("-9223372036854775808"),
    Some("Z%_\\'\"z\n"),
];
/// From the year 1 to 9999, as far as times are ever read.
const TIMES: [Option<i64>; 8] = [
    None,
    Some(0),
    Some(-1),
    Some(1_772_000_000_000_000),
    Some(1_709_251_199_999_999),
    Some(-62_135_596_800_000_000),
    Some(253_402_300_799_999_999),
    Some(951_782_400_000_000),
];
const ROWS: usize = 24;

thread_local! {
    static TABLE: RefCell<Option<(RecordBatch, ColumnScope)>> = const { RefCell::new(None) };
    static RUNTIME: tokio::runtime::Runtime =
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
}

/// `extra`: the last row's values.
fn table(extra: &[u8]) -> (RecordBatch, ColumnScope) {
    let number = |at: usize| {
        let mut bytes = [0; 8];
        let from = extra.len().min(at * 8);
        let some = &extra[from..extra.len().min(from + 8)];
        bytes[..some.len()].copy_from_slice(some);
        i64::from_le_bytes(bytes)
    };
    // Which value of a list a row has: lists go round at different speeds, so that values meet.
    let pick = |row: usize, step: usize| (row * step + row / 8) % 8;
    let long = |step: usize, at: usize| -> ArrayRef {
        let rows = (0..ROWS).map(|row| LONGS[pick(row, step)]);
        Arc::new(rows.chain([Some(number(at))]).collect::<Int64Array>())
    };
    let double = |step: usize, at: usize| -> ArrayRef {
        let rows = (0..ROWS).map(|row| DOUBLES[pick(row, step)]);
        Arc::new(rows.chain([Some(f64::from_bits(number(at) as u64))]).collect::<Float64Array>())
    };
    let last = String::from_utf8_lossy(extra);
    let text = |step: usize| -> ArrayRef {
        Arc::new((0..ROWS).map(|row| TEXTS[pick(row, step)]).chain([Some(&*last)]).collect::<StringArray>())
    };
    let boolean = |step: usize| -> ArrayRef {
        let rows = (0..=ROWS).map(|row| [None, Some(true), Some(false)][(row * step + row / 3) % 3]);
        Arc::new(rows.collect::<BooleanArray>())
    };
    let times = |values: Vec<Option<i64>>| -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from(values).with_timezone("UTC"))
    };
    let time = |step: usize, at: usize| {
        let last = number(at).rem_euclid(253_402_300_800_000_000);
        times((0..ROWS).map(|row| TIMES[pick(row, step)]).chain([Some(last)]).collect())
    };
    let levels = StructArray::from(vec![
        (Arc::new(Field::new("level", DataType::Int64, true)), long(5, 0)),
        (Arc::new(Field::new("name", DataType::Utf8, true)), text(3)),
    ]);
    let list = ListArray::from_iter_primitive::<Int32Type, _, _>((0..=ROWS as i32).map(|row| Some([Some(row), None])));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("l", long(1, 0)),
        ("m", long(3, 1)),
        ("d", double(1, 2)),
        ("e", double(3, 3)),
        ("t", text(1)),
        ("u", text(5)),
        ("b", boolean(1)),
        ("c", boolean(2)),
        ("at", time(1, 4)),
        ("until", time(5, 5)),
        (NOW_COLUMN, times(vec![Some(1_772_000_000_000_000); ROWS + 1])),
        ("in_segment:vip", Arc::new((0..=ROWS).map(|row| Some(row % 2 == 0)).collect::<BooleanArray>())),
        ("member_since:vip", time(3, 6)),
        ("checkout", Arc::new(levels)),
        ("list", Arc::new(list)),
        ("row", Arc::new((0..=ROWS as i64).collect::<Int64Array>())),
    ];
    let mut scope = ColumnScope::new().with_now();
    for (name, values) in &columns {
        let resolved = Resolved { column: name.to_string(), data_type: values.data_type().clone(), nested: Vec::new() };
        match *name {
            "in_segment:vip" => scope.add(&["in_segment", "vip"], resolved),
            "member_since:vip" => scope.add(&["has_been", "vip"], resolved),
            name => scope.add_column(name, resolved.data_type),
        }
    }
    let columns = columns.into_iter().map(|(name, values)| (name, values, true));
    (RecordBatch::try_from_iter_with_nullable(columns).expect("columns"), scope)
}

/// The expression, then perhaps a NUL and what its last row is made of.
pub fn expressions(data: &[u8]) {
    let (text, extra) = match data.iter().position(|byte| *byte == 0) {
        Some(end) => (&data[..end], &data[end + 1..]),
        None => (data, &[][..]),
    };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let (batch, scope) = match extra.is_empty() {
        true => TABLE.with_borrow_mut(|table_| table_.get_or_insert_with(|| table(&[])).clone()),
        false => table(extra),
    };
    parse_path(text);
    let _ = Part::compile(text, &scope);
    let expression = match Expression::compile(text, &scope) {
        Ok(expression) => expression,
        Err(error) => {
            let span = error.span.unwrap_or(0..0);
            assert!(text.get(span.clone()).is_some(), "{span:?} is no place in the text");
            return;
        }
    };
    let predicate = Expression::compile_predicate(text, &scope);
    assert_eq!(predicate.is_ok(), expression.data_type == DataType::Boolean);
    let bound = expression.bind(&batch.schema()).expect("the columns are those of the scope");
    let values = bound.evaluate(&batch).expect("values never fail");
    assert_eq!((values.len(), values.data_type()), (batch.num_rows(), bound.data_type()));
    // A row's value does not hang on the rows beside it.
    for row in [0, ROWS / 2, ROWS] {
        let alone = bound.evaluate(&batch.slice(row, 1)).expect("values never fail");
        assert_eq!(values.slice(row, 1).to_data(), alone.to_data(), "row {row} alone");
    }
    expression.to_sql(Dialect::ClickHouse, &|resolved| name(resolved, '`'));
    if !expression.data_type.is_nested() && !may_differ(text) {
        compare(&expression, &batch, &values);
    }
}

fn name(resolved: &Resolved, quote: char) -> String {
    let nested = resolved.nested.iter().map(|step| format!("['{step}']"));
    format!("{quote}{}{quote}{}", resolved.column, nested.collect::<String>())
}

/// What `expression::render` says to differ in DataFusion: arithmetic that leads out of the calendar, and formats of times.
fn may_differ(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.contains("interval") || text.contains("to_timestamp") || text.contains("to_date")
}

fn compare(expression: &Expression, batch: &RecordBatch, values: &ArrayRef) {
    let sql = expression.to_sql(Dialect::DataFusion, &|resolved| name(resolved, '"'));
    let mut config = SessionConfig::new().with_target_partitions(1);
    config.options_mut().sql_parser.enable_ident_normalization = false;
    let context = SessionContext::new_with_config(config);
    context.register_batch("rows", batch.clone()).expect("a table");
    let sql = format!("SELECT {sql} AS value FROM rows");
    let answer = RUNTIME.with(|runtime| runtime.block_on(async { context.sql(&sql).await?.collect().await }));
    let answer = match answer {
        Ok(answer) => answer,
        // What is written out in full is nested deeper than what was written, and DataFusion's parser has a limit too.
        Err(_) if nesting(&sql) > 16 => return,
        Err(error) => panic!("{sql}: {error}"),
    };
    let answer: Vec<String> = answer.iter().flat_map(|batch| cells(batch.column(0))).collect();
    assert_eq!(cells(values), answer, "{sql}");
}

fn nesting(sql: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in sql.bytes() {
        match byte {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// Doubles by their bits, so that -0 is told from 0.
fn cells(values: &ArrayRef) -> Vec<String> {
    let cell = |row: usize| match values.data_type() {
        _ if values.is_null(row) => "null".to_string(),
        DataType::Int64 => values.as_primitive::<Int64Type>().value(row).to_string(),
        DataType::Float64 => {
            let value = values.as_primitive::<Float64Type>().value(row);
            format!("{value:?} {:x}", value.to_bits())
        }
        DataType::Utf8 => format!("{:?}", values.as_string::<i32>().value(row)),
        DataType::Utf8View => format!("{:?}", values.as_string_view().value(row)),
        DataType::Boolean => values.as_boolean().value(row).to_string(),
        DataType::Timestamp(..) => values.as_primitive::<TimestampMicrosecondType>().value(row).to_string(),
        other => panic!("no value of an expression is {other}"),
    };
    (0..values.len()).map(cell).collect()
}
