//! Who is meant: a profile id, an old id, or `type:value`.

use super::Failure;
use crate::event::ProfileId;
use crate::identity::{IdentityPlan, Named, normalize};

/// A person as someone wrote them.
pub enum Who {
    Id(ProfileId),
    Named(Named),
}

/// # Errors
/// What is written names nobody.
pub fn parse(plan: &IdentityPlan, text: &str) -> Result<Who, Failure> {
    if let Ok(id) = text.parse() {
        return Ok(Who::Id(id));
    }
    parse_named(plan, text).map(Who::Named)
}

/// `type:value`, the value as events have it or normalised.
///
/// # Errors
/// There is no such type, or the value is none of it.
pub fn parse_named(plan: &IdentityPlan, text: &str) -> Result<Named, Failure> {
    let names: Vec<&str> = plan.types.iter().map(|kind| kind.name.as_str()).collect();
    let Some((name, value)) = text.split_once(':') else {
        let message =
            format!("`{text}` is neither a profile id (32 hex digits) nor type:value, such as {}:…", names[0]);
        return Err(Failure::findings(message));
    };
    let Some(kind) = plan.kind(name) else {
        return Err(Failure::findings(format!("there is no identifier type `{name}`; there are {}", names.join(", "))));
    };
    let rule = &plan.types[kind as usize].normalize;
    match normalize(rule, value) {
        Some(value) if !value.is_empty() => Ok(Named { kind, value: (*value).into() }),
        _ => Err(Failure::findings(format!("`{value}` is no {name}"))),
    }
}
