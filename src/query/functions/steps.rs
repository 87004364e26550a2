//! `funnelSteps`, the lake's own: what an analysis asks ClickHouse for in functions of functions, which DataFusion does not read.

use std::sync::Arc;

use arrow::array::{Array, AsArray, Int64Builder, ListBuilder};
use arrow::datatypes::{DataType, Field, Int64Type};
use datafusion::common::{Result, ScalarValue, exec_err};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};

use crate::analysis::STEPS_MAX;

pub fn function() -> ScalarUDF {
    let codes = DataType::new_list(DataType::Int64, true);
    let arguments = vec![DataType::Boolean, DataType::Int64, DataType::Int64, codes];
    ScalarUDF::from(FunnelSteps {
        signature: Signature::new(TypeSignature::Exact(arguments), Volatility::Immutable),
        aliases: super::alias("funnelSteps"),
    })
}

/// `funnelSteps(any_order, within_us, count, codes)`: how far a person comes in `count` steps, and in order how many microseconds each
/// step after the first took, -1 where it was not reached. `codes` are the person's times with their steps, in order (`funnel/lists.rs`).
#[derive(Debug, PartialEq, Eq, Hash)]
struct FunnelSteps {
    signature: Signature,
    aliases: Vec<String>,
}

impl ScalarUDFImpl for FunnelSteps {
    fn name(&self) -> &str {
        "funnelSteps"
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::List(Arc::new(Field::new_list_field(DataType::Int64, true))))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [
            ColumnarValue::Scalar(ScalarValue::Boolean(Some(any_order))),
            ColumnarValue::Scalar(ScalarValue::Int64(Some(within_us))),
            ColumnarValue::Scalar(ScalarValue::Int64(Some(count))),
            codes,
        ] = arguments.args.as_slice()
        else {
            return exec_err!(
                "funnelSteps takes true or false, a window in microseconds, how many steps there are, and a list"
            );
        };
        let count = (*count).clamp(1, STEPS_MAX) as usize;
        let lists = codes.to_array(arguments.number_rows)?;
        let lists = lists.as_list::<i32>();
        let values = lists.values().as_primitive::<Int64Type>().values();
        let mut answer = ListBuilder::new(Int64Builder::new());
        for row in 0..lists.len() {
            let offsets = &lists.value_offsets()[row..];
            let codes = values[offsets[0] as usize..offsets[1] as usize].iter();
            let events = codes.map(|code| (code / STEPS_MAX, (code % STEPS_MAX) as usize));
            let (level, took) = match any_order {
                true => (most_within(events, count, *within_us), Vec::new()),
                false => furthest(events, count, *within_us),
            };
            answer.append_value(std::iter::once(level as i64).chain(took).map(Some));
        }
        Ok(ColumnarValue::Array(Arc::new(answer.finish())))
    }
}

/// By the rule of `windowFunnel` in its plain mode, which gives the level alone: an event reaches a step where a chain has reached
/// the one before, at the latest at the same time, that began no longer ago than the window. Of the chains so far the one that
/// began last is carried along: it reaches furthest.
fn furthest(events: impl Iterator<Item = (i64, usize)>, count: usize, within_us: i64) -> (usize, Vec<i64>) {
    // By step: when the chain began that reached it last, and when it did.
    let mut reached: Vec<Option<(i64, i64)>> = vec![None; count];
    let mut took = vec![-1; count - 1];
    for (at_us, step) in events {
        if step == 1 {
            reached[0] = Some((at_us, at_us));
        } else if let Some(Some((began_us, before_us))) = step.checked_sub(2).and_then(|before| reached.get(before))
            && at_us - began_us <= within_us
            && step <= count
        {
            let (began_us, before_us) = (*began_us, *before_us);
            if reached[step - 1].is_none() {
                took[step - 2] = at_us - before_us;
            }
            reached[step - 1] = Some((began_us, at_us));
        }
    }
    (reached.iter().filter(|reached| reached.is_some()).count(), took)
}

/// Of how many steps there is an event within one window.
fn most_within(events: impl Iterator<Item = (i64, usize)>, count: usize, within_us: i64) -> usize {
    let mut latest: Vec<Option<i64>> = vec![None; count];
    let mut most = 0;
    for (at_us, step) in events {
        if let Some(latest) = step.checked_sub(1).and_then(|place| latest.get_mut(place)) {
            *latest = Some(at_us);
        }
        let near = latest.iter().flatten().filter(|latest_us| at_us - **latest_us <= within_us).count();
        most = most.max(near);
    }
    most
}
