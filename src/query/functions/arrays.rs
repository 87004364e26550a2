//! ClickHouse's functions over lists: `arraySort`, `arrayCompact`, `arraySlice`, `arrayStringConcat`, `indexOf`, and
//! `tupleElement`, also of each tuple in a list.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, StringArray, UInt32Array, UInt64Array};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type};
use arrow::row::{RowConverter, SortField};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::alias;

pub fn functions() -> Vec<ScalarUDF> {
    use Function::*;
    [Sort, Compact, Slice, StringConcat, IndexOf, TupleElement]
        .into_iter()
        .map(|function| {
            let signature = Signature::variadic_any(Volatility::Immutable);
            ScalarUDF::from(ArrayFunction { function, signature, aliases: alias(function.name()) })
        })
        .collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Function {
    /// Ascending, tuples element by element; nulls last.
    Sort,
    /// Of equal elements in a row the first.
    Compact,
    /// From a place on, so many elements or all; a negative place counts from the end.
    Slice,
    /// Texts with another one between them; nulls are left out.
    StringConcat,
    /// The place of the first such element, from 1; 0 where there is none.
    IndexOf,
    TupleElement,
}

impl Function {
    fn name(self) -> &'static str {
        match self {
            Function::Sort => "arraySort",
            Function::Compact => "arrayCompact",
            Function::Slice => "arraySlice",
            Function::StringConcat => "arrayStringConcat",
            Function::IndexOf => "indexOf",
            Function::TupleElement => "tupleElement",
        }
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ArrayFunction {
    function: Function,
    signature: Signature,
    aliases: Vec<String>,
}

impl ScalarUDFImpl for ArrayFunction {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        plan_err!("{}: its type depends on its arguments", self.function.name())
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let name = self.function.name();
        let Some(first) = arguments.arg_fields.first() else { return plan_err!("{name} takes a list first") };
        let (least, most) = match self.function {
            Function::Sort | Function::Compact => (1, 1),
            Function::Slice => (2, 3),
            Function::StringConcat => (1, 2),
            Function::IndexOf | Function::TupleElement => (2, 2),
        };
        if !(least..=most).contains(&arguments.arg_fields.len()) {
            return plan_err!("{name} takes {least} to {most} arguments, not {}", arguments.arg_fields.len());
        }
        let data_type = match (self.function, first.data_type()) {
            (Function::TupleElement, of) => {
                let place = match arguments.scalar_arguments.get(1).copied().flatten() {
                    Some(ScalarValue::Int64(Some(place))) => usize::try_from(*place).ok(),
                    _ => None,
                };
                let element = |tuple: &DataType| match tuple {
                    DataType::Struct(fields) => fields.get(place?.checked_sub(1)?).cloned(),
                    _ => None,
                };
                match of {
                    DataType::List(tuple) => element(tuple.data_type()).map(|element| list_type(element.data_type())),
                    tuple => element(tuple).map(|element| element.data_type().clone()),
                }
                .map_or_else(|| plan_err!("{name} takes a tuple, or a list of tuples, and which element, from 1"), Ok)?
            }
            (Function::Sort | Function::Compact | Function::Slice, DataType::List(of)) => list_type(of.data_type()),
            (Function::StringConcat, DataType::List(of)) if of.data_type().is_string() => DataType::Utf8,
            (Function::IndexOf, DataType::List(_)) => DataType::UInt64,
            (Function::StringConcat, of) => return plan_err!("{name} takes a list of texts, not {of}"),
            (_, of) => return plan_err!("{name} takes a list, not {of}"),
        };
        let nullable = arguments.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(name, data_type, nullable)))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = arguments.number_rows;
        let values: Result<Vec<ArrayRef>> = arguments.args.iter().map(|argument| argument.to_array(rows)).collect();
        let values = values?;
        let of_lists = |lists: &ListArray| -> Result<ArrayRef> {
            Ok(match (self.function, &values[1..]) {
                (Function::Sort, _) => Arc::new(sorted(lists)?),
                (Function::Compact, _) => Arc::new(compact(lists)?),
                (Function::Slice, [from, most @ ..]) => Arc::new(slice(lists, from, most.first())?),
                (Function::StringConcat, between) => Arc::new(joined(lists, between.first())?),
                (Function::IndexOf, [of]) => Arc::new(index_of(lists, of)?),
                _ => return exec_err!("{} takes more arguments", self.function.name()),
            })
        };
        let answer = match (self.function, values.first()) {
            (Function::TupleElement, Some(tuples)) => {
                let Some(ColumnarValue::Scalar(ScalarValue::Int64(Some(place)))) = arguments.args.get(1) else {
                    return exec_err!("tupleElement: the place is a constant");
                };
                element(tuples, usize::try_from(place - 1).unwrap_or(usize::MAX))?
            }
            (_, Some(lists)) => of_lists(&own_values(lists.as_list()))?,
            (_, None) => return exec_err!("{} takes a list", self.function.name()),
        };
        Ok(ColumnarValue::Array(answer))
    }
}

/// Without the values that are before and after its rows: a batch of a large array of lists holds all of its values.
fn own_values(lists: &ListArray) -> ListArray {
    let offsets = lists.offsets();
    let (first, last) = (offsets[0], offsets[lists.len()]);
    let values = lists.values().slice(first as usize, (last - first) as usize);
    let offsets = OffsetBuffer::new(offsets.iter().map(|offset| offset - first).collect());
    let field = Arc::new(Field::new_list_field(lists.value_type(), true));
    ListArray::new(field, offsets, values, lists.nulls().cloned())
}

fn list_type(of: &DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(of.clone(), true)))
}

/// Lists of these elements of another one's values, for each of its rows.
fn picked(lists: &ListArray, mut pick: impl FnMut(usize, std::ops::Range<usize>, &mut Vec<u32>)) -> Result<ListArray> {
    let mut indices = Vec::with_capacity(lists.values().len());
    let mut lengths = Vec::with_capacity(lists.len());
    for row in 0..lists.len() {
        let before = indices.len();
        if lists.is_valid(row) {
            let offsets = &lists.value_offsets()[row..];
            pick(row, offsets[0] as usize..offsets[1] as usize, &mut indices);
        }
        lengths.push(indices.len() - before);
    }
    let values = take(lists.values(), &UInt32Array::from(indices), None)?;
    let field = Arc::new(Field::new_list_field(lists.value_type(), true));
    Ok(ListArray::try_new(field, OffsetBuffer::from_lengths(lengths), values, lists.nulls().cloned())?)
}

/// Values in a form of which equality and order are those of bytes.
fn comparable(values: &[&ArrayRef]) -> Result<Vec<arrow::row::Rows>> {
    let Some(of) = values.first() else { return Ok(Vec::new()) };
    let options = arrow::compute::SortOptions { descending: false, nulls_first: false };
    let converter = RowConverter::new(vec![SortField::new_with_options(of.data_type().clone(), options)])?;
    values.iter().map(|values| Ok(converter.convert_columns(&[ArrayRef::clone(values)])?)).collect()
}

fn sorted(lists: &ListArray) -> Result<ListArray> {
    let rows = comparable(&[lists.values()])?.remove(0);
    picked(lists, |_, range, indices| {
        let start = indices.len();
        indices.extend(range.map(|index| index as u32));
        indices[start..].sort_by(|a, b| rows.row(*a as usize).cmp(&rows.row(*b as usize)));
    })
}

fn compact(lists: &ListArray) -> Result<ListArray> {
    let rows = comparable(&[lists.values()])?.remove(0);
    picked(lists, |_, range, indices| {
        let first = range.start;
        let kept = range.filter(|index| *index == first || rows.row(*index) != rows.row(index - 1));
        indices.extend(kept.map(|index| index as u32));
    })
}

fn integers(values: &ArrayRef) -> Result<arrow::array::Int64Array> {
    Ok(cast(values, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
}

fn slice(lists: &ListArray, from: &ArrayRef, most: Option<&ArrayRef>) -> Result<ListArray> {
    let (from, most) = (integers(from)?, most.map(integers).transpose()?);
    if from.iter().any(|from| from == Some(0)) {
        return exec_err!("arraySlice: places begin with 1");
    }
    picked(lists, |row, range, indices| {
        let length = range.len() as i64;
        // A place before the first is still a place: what lies there is nothing.
        let start = if from.value(row) > 0 { from.value(row) - 1 } else { length.saturating_add(from.value(row)) };
        let end = match &most {
            Some(most) if most.is_valid(row) && most.value(row) < 0 => length.saturating_add(most.value(row)),
            Some(most) if most.is_valid(row) => start.saturating_add(most.value(row)),
            _ => length,
        };
        let (start, end) = (start.clamp(0, length), end.clamp(0, length));
        indices.extend((start..end).map(|place| (range.start as i64 + place) as u32));
    })
}

fn joined(lists: &ListArray, between: Option<&ArrayRef>) -> Result<StringArray> {
    let texts = |values: &ArrayRef| cast(values, &DataType::Utf8);
    let between = between.map(texts).transpose()?;
    let values = texts(lists.values())?;
    let values = values.as_string::<i32>();
    let answer = (0..lists.len()).map(|row| {
        let between = between.as_ref().map_or("", |between| between.as_string::<i32>().value(row));
        let offsets = &lists.value_offsets()[row..];
        let range = offsets[0] as usize..offsets[1] as usize;
        let parts: Vec<&str> = range.filter(|index| values.is_valid(*index)).map(|index| values.value(index)).collect();
        lists.is_valid(row).then(|| parts.join(between))
    });
    Ok(answer.collect())
}

fn index_of(lists: &ListArray, of: &ArrayRef) -> Result<UInt64Array> {
    let of = cast(of, &lists.value_type())?;
    let mut rows = comparable(&[lists.values(), &of])?;
    let (of, values) = (rows.pop(), rows.pop());
    let (Some(of), Some(values)) = (of, values) else { return exec_err!("indexOf takes a list and a value") };
    let answer = (0..lists.len()).map(|row| {
        let offsets = &lists.value_offsets()[row..];
        let mut range = offsets[0] as usize..offsets[1] as usize;
        let place = range.position(|index| values.row(index) == of.row(row));
        lists.is_valid(row).then(|| place.map_or(0, |place| place as u64 + 1))
    });
    Ok(answer.collect())
}

/// Of each tuple, or of each tuple in the lists, the element at this place from 0.
fn element(tuples: &ArrayRef, place: usize) -> Result<ArrayRef> {
    if let Some(lists) = tuples.as_list_opt::<i32>() {
        let lists = own_values(lists);
        let values = element(lists.values(), place)?;
        let field = Arc::new(Field::new_list_field(values.data_type().clone(), true));
        let lists = ListArray::try_new(field, lists.offsets().clone(), values, lists.nulls().cloned())?;
        return Ok(Arc::new(lists));
    }
    let Some(tuples) = tuples.as_struct_opt() else { return exec_err!("tupleElement takes tuples") };
    match tuples.columns().get(place) {
        Some(values) if tuples.null_count() == 0 => Ok(values.clone()),
        Some(values) => Ok(arrow::compute::nullif(values, &arrow::compute::is_null(tuples)?)?),
        None => exec_err!("tupleElement: there is no element {}", place.saturating_add(1)),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;

    use super::*;

    /// Sorting a batch must not go through what the other batches hold.
    #[test]
    fn a_slice_of_lists_has_its_own_values_only() {
        let lists = [vec![3, 1, 2], vec![5, 4], vec![], vec![9, 8]].map(|list| Some(list.into_iter().map(Some)));
        let lists = ListArray::from_iter_primitive::<Int64Type, _, _>(lists);
        let slice = own_values(&lists.slice(1, 2));
        assert_eq!(slice.values().as_primitive::<Int64Type>(), &Int64Array::from(vec![5, 4]));
        let sorted = sorted(&slice).expect("sorted");
        assert_eq!(sorted.value(0).as_primitive::<Int64Type>(), &Int64Array::from(vec![4, 5]));
        assert_eq!(sorted.value(1).len(), 0);
    }
}
