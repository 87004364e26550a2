//! `explain segment NAME WHO` and `explain trait NAME WHO`: what is true now, why, and until when.
//!
//! The person and their memberships are the state's; conditions are evaluated over them by the engine's own expressions,
//! at one `now`. What comes if no event does is found by letting time pass for a copy ([`Moments`]), timer by timer.

use super::events::{self, Behind, Change};
use super::moments::Moments;
use super::tree::{Ground, Node, with_references};
use super::values::{TraitView, with_inputs};
use super::{Person, write};
use crate::cli::output::{Output, print};
use crate::cli::run::engine_failure;
use crate::cli::{Exit, Failure, Global, NodeConfig, say, status};
use crate::clock;
use crate::definition::Pipeline;
use crate::engine::{EngineError, Look, look};
use crate::event::TimeUs;
use crate::profile::{BUILT_IN, Membership, Traits};
use crate::segment::{SegmentRule, is_sampled};
use crate::source::SourcePlan;
use crate::transform::Restore;

/// Moments that are looked at ahead.
pub const STEPS_MAX: usize = 1_000;

/// What is explained, by index.
#[derive(Debug, Clone, Copy)]
pub enum What {
    Segment { index: usize, deep: bool },
    Trait { index: usize },
}

/// Everything that is said.
pub struct Explained<'a> {
    pub pipeline: &'a Pipeline,
    pub person: &'a Person,
    pub what: What,
    pub traits: &'a Traits,
    pub look: &'a Look,
    pub now: TimeUs,
    pub now_is: NowIs,
    /// Of a segment with a predicate.
    pub tree: Option<Node>,
    /// When it first takes them in or lets them go, if no event comes, and which.
    pub flip: Option<(TimeUs, bool)>,
    /// By index of the segment: at `now`, for those that are shown.
    pub memberships: Vec<(u16, Membership)>,
    /// Values of the built-in traits.
    pub built_in: Vec<serde_json::Value>,
    pub views: Vec<TraitView>,
    /// How far was looked ahead; None: to the end.
    pub looked_until: Option<TimeUs>,
    /// Of the views; or why there is none.
    pub behind: Result<Vec<Behind>, String>,
    pub changes: Result<Vec<Change>, String>,
}

/// Which time `now()` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NowIs {
    /// A process runs.
    Clock,
    /// None does: that of the last commit.
    State,
    /// All sources are files, so time goes by what they say: that of the last commit.
    Files,
}

pub async fn explain(
    global: &Global,
    config: &NodeConfig,
    pipeline: &Pipeline,
    person: &Person,
    what: What,
) -> Result<Exit, Failure> {
    let look = look(&person.reader, pipeline, person.number).await.map_err(engine_failure)?;
    let events = Restore::new(&pipeline.transform.fields).schema();
    let mut traits =
        Traits::new(pipeline.traits.clone(), pipeline.sessions.clone(), &events).map_err(Failure::fatal)?;
    traits.ready = look.traits.iter().map(|known| *known == crate::engine::Readiness::Ready).collect();
    let (now, now_is) = now(pipeline, config, look.engine.now).await;
    let mut explained = ahead(pipeline, person, what, &traits, &look, now, now_is).map_err(engine_failure)?;
    let shown: Vec<usize> = explained.views.iter().map(|view| view.index).collect();
    explained.behind = events::behind(pipeline, config, &person.component, &traits, &shown, now).await;
    if let What::Segment { index, .. } = what {
        explained.changes = events::changes(pipeline, config, &person.component, &pipeline.segments[index].name).await;
    }
    if Output::or_default(global.output) == Output::Json {
        print(&write::as_json(&explained).to_string());
    } else {
        print(&write::as_text(&explained));
    }
    let problems = [explained.behind.as_ref().err(), explained.changes.as_ref().err()];
    if let Some(problem) = problems.into_iter().flatten().next() {
        say(&format!("events, entries and exits are left out: {problem}"));
    }
    Ok(Exit::Well)
}

/// The time of now, and which it is; `state_now` is that of the last commit.
pub async fn now(pipeline: &Pipeline, config: &NodeConfig, state_now: TimeUs) -> (TimeUs, NowIs) {
    let runs = status::running(config).await.is_some();
    match pipeline.sources.iter().all(SourcePlan::is_file) {
        true => (state_now, NowIs::Files),
        false if runs => (clock::now_us().max(state_now), NowIs::Clock),
        false => (state_now, NowIs::State),
    }
}

/// Evaluates everything now, and lets time pass until nothing changes any more.
fn ahead<'a>(
    pipeline: &'a Pipeline,
    person: &'a Person,
    what: What,
    traits: &'a Traits,
    look: &'a Look,
    now: TimeUs,
    now_is: NowIs,
) -> Result<Explained<'a>, EngineError> {
    let needed = match what {
        What::Segment { index, .. } => with_references(pipeline, index as u16),
        What::Trait { .. } => Vec::new(),
    };
    // All that any of these segments reads, shown or not, moves with the time.
    let mut columns: Vec<usize> = Vec::new();
    for segment in &needed {
        if let SegmentRule::Predicate(predicate) = &pipeline.segments[usize::from(*segment)].rule {
            columns.extend(predicate.inputs.iter().filter_map(|input| traits.schema().index_of(&input.column).ok()));
        }
    }
    let own = match what {
        What::Trait { index } => traits.plans[index].columns.first(),
        What::Segment { .. } => None,
    };
    columns.extend(own.and_then(|column| traits.schema().index_of(&column.name).ok()));
    let mut watched = vec![false; traits.plans.len()];
    with_inputs(traits, columns.into_iter()).into_iter().for_each(|index| watched[index] = true);

    let mut moments = Moments::new(pipeline, traits, look, &needed, &watched, now)?;
    let schema = moments.schema().clone();
    let ground = Ground { pipeline, traits, schema: &schema };
    let mut tree = None;
    let shown = match what {
        What::Segment { index, deep } => {
            if let SegmentRule::Predicate(predicate) = &pipeline.segments[index].rule {
                tree = Some(Node::of(&predicate.sql, &ground, if deep { usize::MAX } else { 1 })?);
            }
            let mut leaves = Vec::new();
            tree.iter().for_each(|tree| tree.leaves(&mut leaves));
            let columns: Vec<usize> = leaves.iter().flat_map(|leaf| leaf.columns.iter().copied()).collect();
            with_inputs(traits, columns.into_iter())
        }
        What::Trait { index } => {
            let own = traits.plans[index].columns.first();
            with_inputs(traits, own.and_then(|column| traits.schema().index_of(&column.name).ok()).into_iter())
        }
    };
    let mut views = shown.iter().map(|index| TraitView::of(*index, &ground)).collect::<Result<Vec<_>, _>>()?;

    moments.go_to(now)?;
    let row = moments.row()?;
    let built_in = (0..BUILT_IN.len()).map(|index| super::values::value_of(row.column(index))).collect();
    let memberships = needed.iter().map(|segment| (*segment, moments.membership(*segment))).collect();
    let (mut flip, mut later) = (None, None);
    let mut looked_until = None;
    for step in 0.. {
        let row = moments.row()?;
        if let Some(tree) = &mut tree {
            let holds = tree.look(&row, later)? == Some(true);
            let flips = flip.is_none() && holds != (tree.holds == Some(true));
            flip = flip.or(later.filter(|_| flips).map(|at| (at, holds)));
        }
        for view in &mut views {
            view.look(&traits.plans[view.index], &row, later)?;
        }
        if !moments.go_on()? {
            break;
        }
        later = Some(moments.now());
        if step == STEPS_MAX {
            looked_until = later;
            break;
        }
    }
    Ok(Explained {
        pipeline,
        person,
        what,
        traits,
        look,
        now,
        now_is,
        tree,
        flip,
        memberships,
        built_in,
        views,
        looked_until,
        behind: Ok(Vec::new()),
        changes: Ok(Vec::new()),
    })
}

impl Explained<'_> {
    pub fn membership(&self, segment: u16) -> Membership {
        self.memberships.iter().find(|(other, _)| *other == segment).map_or_else(Default::default, |(_, found)| *found)
    }

    /// Whether the definition takes them in, at `now`; None where only the state knows.
    pub fn holds(&self, segment: u16) -> Option<bool> {
        match (&self.pipeline.segments[usize::from(segment)].rule, &self.tree) {
            (SegmentRule::Predicate(_), Some(tree)) => Some(tree.holds == Some(true)),
            (SegmentRule::Sample { below }, _) => {
                let name = &self.pipeline.segments[usize::from(segment)].name;
                Some(is_sampled(name, self.person.component.id, *below))
            }
            (SegmentRule::Nobody, _) => Some(false),
            _ => None,
        }
    }
}
