//! What the checks share: names that are defined, contracts, the scopes of expressions, and the fields that are read.

use std::cell::RefCell;
use std::collections::BTreeMap;

use arrow::datatypes::DataType;

use super::findings::{Span, nearest_or_list};
use super::read::Reader;
use super::scope::Whose;
use super::spec::*;
use crate::activation::connector::ConnectorPlan;
use crate::event::{Field, ValueType};
use crate::expression::{Expression, Scope};
use crate::transform::{Aliases, Contract, Contracts, EventScope};

pub struct Checker<'d> {
    pub reader: Reader<'d>,
    definition: &'d Definition,
    contracts: Vec<Contract>,
    compiled: Contracts,
    /// Event names are checked: the pipeline has contracts of its own.
    own_contracts: bool,
    /// Of the `enrich` steps so far; of all of them once the transforms are done.
    aliases: Aliases,
    /// The table that an enrichment's name stands for.
    alias_tables: BTreeMap<String, String>,
    fields: RefCell<Vec<Field>>,
    step_fields: RefCell<Vec<Field>>,
}

impl<'d> Checker<'d> {
    pub fn new(reader: Reader<'d>, definition: &'d Definition) -> Checker<'d> {
        let (mut contracts, own_contracts) = super::inputs::contracts(&reader);
        // One by one, so that every contract that cannot be used is reported.
        contracts.retain(|contract| match Contracts::compile(std::slice::from_ref(contract)) {
            Ok(_) => true,
            Err((_, problem)) => {
                reader.findings.error_of(contract.file.clone(), problem, None);
                false
            }
        });
        let compiled = Contracts::compile(&contracts).unwrap_or_default();
        Checker {
            reader,
            definition,
            contracts,
            compiled,
            own_contracts,
            aliases: Aliases::new(),
            alias_tables: BTreeMap::new(),
            fields: RefCell::default(),
            step_fields: RefCell::default(),
        }
    }

    // Expressions

    pub fn compile(&self, sql: &Sql, scope: &dyn Scope) -> Option<Expression> {
        let compiled = Expression::compile(&sql.scalar.text, scope);
        compiled.map_err(|error| self.report(sql, error.span, error.message, error.help)).ok()
    }

    /// An expression that must be true or false.
    pub fn predicate(&self, sql: &Sql, scope: &dyn Scope, what: &str) -> Option<Expression> {
        let expression = self.compile(sql, scope)?;
        if expression.data_type != DataType::Boolean {
            let message = format!("{what} must be true or false, this is {}", type_name(&expression.data_type));
            let help = "compare it with something, or test IS NOT NULL".to_string();
            self.reader.findings.error(sql.span, message, help);
            return None;
        }
        Some(expression)
    }

    /// A predicate over a profile; warns where a null would surprise.
    pub fn condition(&self, sql: &Sql, scope: &dyn Scope, what: &str) -> Option<Expression> {
        let condition = self.predicate(sql, scope, what)?;
        let findings = self.reader.findings;
        let source = &findings.files()[sql.span.file].text;
        for warning in &condition.null_warnings {
            let span = warning.span.clone().map_or(sql.span, |part| sql.scalar.locate(&part, sql.span, source));
            findings.warning(span, warning.message.clone(), warning.help.clone());
        }
        Some(condition)
    }

    /// Points at a part of an expression, in the file.
    pub fn report(&self, sql: &Sql, part: Option<std::ops::Range<usize>>, message: String, help: Option<String>) {
        let findings = self.reader.findings;
        let source = &findings.files()[sql.span.file].text;
        let span = part.map_or(sql.span, |part| sql.scalar.locate(&part, sql.span, source));
        findings.error(span, message, help);
    }

    // Scopes and fields

    /// The columns of events of these names, or of all.
    pub fn event_scope<'s>(&'s self, events: Option<&'s [String]>) -> EventScope<'s> {
        EventScope::new(&self.compiled, events, &self.aliases)
    }

    /// A later step and all that follows the transforms can read the table's columns under this name.
    pub fn add_alias(&mut self, alias: &Literal, table: &str) {
        match self.alias_tables.get(&alias.text) {
            Some(other) if other != table => {
                let message = format!("`{}` already stands for the table `{other}`", alias.text);
                self.reader.findings.error(alias.span, message, None);
            }
            Some(_) => {}
            None => {
                let spec = self.definition.tables.iter().find(|other| other.name == table);
                let columns = spec.and_then(|spec| spec.body.as_ref()).map(|body| body.columns.clone());
                self.aliases.insert(alias.text.clone(), columns.unwrap_or_default());
                self.alias_tables.insert(alias.text.clone(), table.to_string());
            }
        }
    }

    pub fn step_field(&self, field: Field) {
        add_field(&self.step_fields, field);
    }

    pub fn step_fields_of(&self, scope: &EventScope) {
        scope.fields().into_iter().for_each(|field| add_field(&self.step_fields, field));
    }

    /// A field that a stage after the transforms reads.
    pub fn field(&self, field: Field) {
        add_field(&self.fields, field);
    }

    pub fn fields_of(&self, scope: &EventScope) {
        scope.fields().into_iter().for_each(|field| self.field(field));
    }

    pub fn into_fields(self) -> (Vec<Contract>, Vec<Field>, Vec<Field>) {
        (self.contracts, self.step_fields.into_inner(), self.fields.into_inner())
    }

    // Names

    pub fn source_names(&self) -> Vec<&'d str> {
        self.definition.sources.iter().map(|source| source.name.as_str()).collect()
    }

    /// Sources by what their values count, best first.
    pub fn source_order(&self) -> Vec<String> {
        let priority = self.definition.identity.as_ref().and_then(|identity| identity.source_priority.as_ref());
        match priority {
            Some(literals) => literals.iter().map(|literal| literal.text.clone()).collect(),
            None => self.source_names().into_iter().map(str::to_string).collect(),
        }
    }

    pub fn table_names(&self) -> Vec<&'d str> {
        self.definition.tables.iter().map(|table| table.name.as_str()).collect()
    }

    /// Traits that have stages.
    pub fn staged_traits(&self) -> Vec<&'d str> {
        let staged = |named: &&'d Named<TraitSpec>| matches!(named.body, Some(TraitSpec::Stages(_)) | None);
        self.definition.traits.iter().filter(staged).map(|named| named.name.as_str()).collect()
    }

    pub fn segment_names(&self) -> Vec<&'d str> {
        self.definition.segments.iter().map(|segment| segment.name.as_str()).collect()
    }

    pub fn consent_names(&self) -> Vec<&'d str> {
        self.definition.consent.iter().map(|consent| consent.name.as_str()).collect()
    }

    /// What holds for a purpose of which someone has never spoken.
    pub fn consent_default(&self, purpose: &str) -> bool {
        let consent = self.definition.consent.iter().find(|consent| consent.name == purpose);
        consent.and_then(|consent| consent.body.as_ref()).is_some_and(|spec| spec.default)
    }

    pub fn group_names(&self) -> Vec<&'d str> {
        self.definition.groups.iter().map(|group| group.name.as_str()).collect()
    }

    /// First parts of the names that belong to the others: see `ProfileScope`.
    pub fn foreign(&self, whose: Whose<'_>) -> Vec<String> {
        let names: Vec<&str> = match whose {
            Whose::People => self.group_names(),
            Whose::Group(_) => self.definition.traits.iter().map(|named| named.name.as_str()).collect(),
        };
        names.into_iter().map(str::to_string).collect()
    }

    pub fn destination_names(&self) -> Vec<&'d str> {
        self.definition.destinations.iter().map(|destination| destination.name.as_str()).collect()
    }

    pub fn destination(&self, name: &str) -> Option<&'d DestinationSpec> {
        let found = self.definition.destinations.iter().find(|destination| destination.name == name);
        found.and_then(|destination| destination.body.as_ref()).map(|entry| &entry.kind)
    }

    pub fn connectors(&self) -> &'d [Named<ConnectorPlan>] {
        &self.definition.connectors
    }

    /// Identifier types, best first.
    pub fn identifier_types(&self) -> Vec<&'d str> {
        match &self.definition.identity {
            Some(identity) => identity.identifiers.iter().map(|identifier| identifier.name.as_str()).collect(),
            None => super::outputs::DEFAULT_IDENTIFIERS.to_vec(),
        }
    }

    /// An identifier that `map` or `set` writes joins nothing unless `identity` lists its type.
    pub fn check_identifier(&self, name: &str, span: Span) {
        let types = self.identifier_types();
        if !types.contains(&name) {
            let help = nearest_or_list(name, types);
            self.reader.findings.warning(span, format!("`identity.identifiers` does not list `{name}`"), help);
        }
    }

    /// Event names; an unknown one is an error where the pipeline has contracts of its own.
    pub fn events(&self, literals: Option<&[Literal]>) -> Option<Vec<String>> {
        let literals = literals?;
        if self.own_contracts {
            let known = self.event_names();
            for literal in literals.iter().filter(|literal| !known.contains(&literal.text.as_str())) {
                let message = format!("no contract knows the event `{}`", literal.text);
                let help = nearest_or_list(&literal.text, known.iter().copied());
                self.reader.findings.error(literal.span, message, help);
            }
        }
        Some(literals.iter().map(|literal| literal.text.clone()).collect())
    }

    /// Events with a contract, and those that the pipeline makes itself.
    fn event_names(&self) -> Vec<&str> {
        let made = self.definition.transforms.iter().filter_map(|step| match &step.action {
            ActionSpec::Unnest { event, .. } => Some(event.text.as_str()),
            _ => None,
        });
        let sources = self.definition.sources.iter().filter_map(|source| source.body.as_ref());
        let mapped = sources.flat_map(|source| source.map.iter().flatten()).filter_map(|entry| match &entry.value {
            MapEntryValue::Literal(serde_json::Value::String(event), _) if entry.target == "event" => {
                Some(event.as_str())
            }
            _ => None,
        });
        let contracts = self.contracts.iter().map(|contract| contract.event.as_str());
        contracts.chain(made).chain(mapped).collect()
    }
}

fn add_field(fields: &RefCell<Vec<Field>>, field: Field) {
    let mut fields = fields.borrow_mut();
    if !fields.contains(&field) {
        fields.push(field);
    }
}

/// A type as people say it.
pub fn type_name(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Boolean => "a boolean",
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "a text",
        DataType::Float16 | DataType::Float32 | DataType::Float64 => "a number",
        DataType::Timestamp(..) => "a timestamp",
        DataType::Struct(_) => "a record",
        DataType::Map(..) => "a map",
        other if other.is_integer() => "a whole number",
        other if other.is_list() => "a list",
        _ => "of a type that cannot be used",
    }
}

/// The type of a trait or column that holds such values.
pub fn value_type(data_type: &DataType) -> Option<ValueType> {
    [ValueType::String, ValueType::Long, ValueType::Double, ValueType::Boolean, ValueType::Timestamp]
        .into_iter()
        .find(|value_type| value_type.arrow() == *data_type)
}
