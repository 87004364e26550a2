//! One person now and at the moments that follow if no event comes, judged as the engine would judge them.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use hashbrown::HashMap;

use crate::definition::Pipeline;
use crate::engine::{EngineError, Look, Readiness};
use crate::event::{TimeUs, time_type};
use crate::expression::NOW_COLUMN;
use crate::profile::{Membership, Profile, Traits};
use crate::segment::{Cause, Judged, SegmentPlan, SegmentRule, Segments, Touch, membership_column, since_column};

/// One person at a moment.
pub struct Moments<'a> {
    traits: &'a Traits,
    segments: Segments,
    /// Segments that matter, by index.
    needed: Vec<u16>,
    /// Traits that matter, by index.
    watched: &'a [bool],
    profile: Profile,
    now: TimeUs,
    columns: RecordBatch,
    schema: SchemaRef,
}

impl<'a> Moments<'a> {
    /// As the state has them, at the moment when they were last judged, or at `now` where that is earlier. Other segments
    /// than `needed` and those they refer to are left out.
    pub fn new(
        pipeline: &Pipeline,
        traits: &'a Traits,
        look: &Look,
        needed: &[u16],
        watched: &'a [bool],
        now: TimeUs,
    ) -> Result<Self, EngineError> {
        let plans = pipeline.segments.iter().enumerate().map(|(index, plan)| match needed.contains(&(index as u16)) {
            true => plan.clone(),
            // Never judged, since nothing that it reads is ever touched.
            false => SegmentPlan { rule: SegmentRule::Nobody, ..plan.clone() },
        });
        let mut segments = Segments::new(plans.collect(), traits)?;
        segments.ready = look.segments.iter().map(|known| *known == Readiness::Ready).collect();
        let mut fields: Vec<Field> = traits.schema().fields().iter().map(|field| field.as_ref().clone()).collect();
        for segment in needed {
            let name = &pipeline.segments[usize::from(*segment)].name;
            fields.push(Field::new(membership_column(name), DataType::Boolean, true));
            fields.push(Field::new(since_column(name), time_type(), true));
        }
        fields.push(Field::new(NOW_COLUMN, time_type(), true));
        let mut profile = look.profile.clone();
        // Segments that are defined no more.
        profile.memberships.retain(|(segment, _)| usize::from(*segment) < pipeline.segments.len());
        let judged = if profile.as_of == TimeUs::MIN { now } else { profile.as_of.min(now) };
        let columns = traits.columns(std::slice::from_ref(&profile), &[judged])?;
        let schema = Arc::new(Schema::new(fields));
        let needed = needed.to_vec();
        Ok(Moments { traits, segments, needed, watched, profile, now: judged, columns, schema })
    }

    pub fn now(&self) -> TimeUs {
        self.now
    }

    pub fn membership(&self, segment: u16) -> Membership {
        self.profile.membership(segment)
    }

    /// Lets all that is due until `now` happen.
    pub fn go_to(&mut self, now: TimeUs) -> Result<(), EngineError> {
        while let Some(next) = self.next().filter(|next| *next <= now) {
            self.judge_at(next)?;
        }
        self.now = self.now.max(now);
        self.columns = self.traits.columns(std::slice::from_ref(&self.profile), &[self.now])?;
        Ok(())
    }

    /// Goes on to the next moment at which something could change; false where there is none.
    pub fn go_on(&mut self) -> Result<bool, EngineError> {
        let next = self.next();
        next.map(|next| self.judge_at(next)).transpose()?;
        Ok(next.is_some())
    }

    fn next(&self) -> Option<TimeUs> {
        let flip = self.segments.next_flip(self.traits, &self.columns, 0, &self.profile, self.now);
        let change = self.traits.next_change(&self.profile, self.watched, self.now).unwrap_or(TimeUs::MAX);
        Some(flip.min(change)).filter(|next| *next != TimeUs::MAX)
    }

    /// What the engine does when a timer is due.
    fn judge_at(&mut self, at: TimeUs) -> Result<(), EngineError> {
        let profiles = std::slice::from_mut(&mut self.profile);
        self.traits.settle(&mut profiles[0], at);
        self.columns = self.traits.columns(profiles, &[at])?;
        let judged = Judged {
            traits: &self.columns,
            now: &[at],
            touch: &Touch { time: true, ..Touch::default() },
            new: &[],
            whole: &[],
            shown: &HashMap::new(),
            moved: &[],
            listed: &|_, _| None,
            cause: Cause::Time,
        };
        self.segments.judge(&judged, profiles)?;
        self.now = at;
        Ok(())
    }

    /// The columns of [`Moments::row`].
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// All that conditions read, in one row: traits, memberships, since when, and the time.
    pub fn row(&self) -> Result<RecordBatch, EngineError> {
        let time =
            |at: Option<TimeUs>| Arc::new(TimestampMicrosecondArray::from(vec![at]).with_timezone("UTC")) as ArrayRef;
        let mut columns = self.columns.columns().to_vec();
        for segment in &self.needed {
            let Membership { member, since, .. } = self.profile.membership(*segment);
            columns.push(Arc::new(BooleanArray::from(vec![member])));
            columns.push(time(member.then_some(since)));
        }
        columns.push(time(Some(self.now)));
        RecordBatch::try_new(self.schema.clone(), columns)
            .map_err(|error| EngineError::Internal(format!("one person as a row: {error}")))
    }
}
