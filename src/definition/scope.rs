//! The names that expressions may use, beside those of the stages: stand-ins until the stages bring theirs.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use arrow::datatypes::DataType;

use crate::event::{self, Field, Root, ValueType, column};
use crate::expression::{ColumnScope, Resolved, Scope};
use crate::transform::Contract;

/// Traits and segments: what a segment's predicate reads.
pub struct SegmentScope {
    pub traits: Vec<(String, ValueType)>,
    pub segments: Vec<String>,
    /// Traits whose definition is at fault: what reads them is not reported as well.
    pub broken: BTreeSet<String>,
    pub touched_broken: Cell<bool>,
}

impl Scope for SegmentScope {
    fn resolve(&self, path: &[&str]) -> Option<Resolved> {
        match path {
            ["in_segment", name] => self.segments.iter().any(|segment| segment == name).then(|| Resolved {
                column: format!("in_segment:{name}"),
                data_type: DataType::Boolean,
                nested: Vec::new(),
            }),
            [name] => {
                if self.broken.contains(*name) {
                    self.touched_broken.set(true);
                }
                let (name, value_type) = self.traits.iter().find(|(other, _)| other == name)?;
                Some(Resolved { column: name.clone(), data_type: value_type.arrow(), nested: Vec::new() })
            }
            _ => None,
        }
    }

    fn names(&self) -> Vec<String> {
        let traits = self.traits.iter().map(|(name, _)| name.clone());
        traits.chain(self.segments.iter().map(|name| format!("in_segment('{name}')"))).collect()
    }
}

// Stand-ins from here.

pub type Aliases = BTreeMap<String, Vec<(String, ValueType)>>;

#[derive(Default)]
pub struct Contracts(BTreeMap<String, serde_json::Value>);

impl Contracts {
    pub fn compile(contracts: &[Contract]) -> Result<Contracts, (Contract, String)> {
        let mut all = BTreeMap::new();
        for contract in contracts {
            let schema = serde_json::from_str(&contract.schema).map_err(|why| (contract.clone(), why.to_string()))?;
            all.insert(contract.event.clone(), schema);
        }
        Ok(Contracts(all))
    }
}

pub struct EventScope<'a> {
    contracts: Vec<&'a serde_json::Value>,
    aliases: &'a Aliases,
    fields: RefCell<Vec<Field>>,
    open: bool,
}

impl<'a> EventScope<'a> {
    pub fn new(contracts: &'a Contracts, events: Option<&'a [String]>, aliases: &'a Aliases) -> Self {
        let open = events.is_none_or(|events| events.iter().any(|event| !contracts.0.contains_key(event)));
        let wanted = contracts.0.iter().filter(|(name, _)| events.is_none_or(|events| events.contains(name)));
        EventScope { contracts: wanted.map(|(_, schema)| schema).collect(), aliases, fields: RefCell::default(), open }
    }

    pub fn fields(&self) -> Vec<Field> {
        self.fields.borrow().clone()
    }

    fn contract_type(&self, name: &str) -> Option<ValueType> {
        let fields = self.contracts.iter().flat_map(|schema| schema["fields"].as_array().into_iter().flatten());
        let field = fields.into_iter().find(|field| field["name"] == name)?;
        let text = field["type"].to_string();
        Some(match () {
            () if text.contains("timestamp") => ValueType::Timestamp,
            () if text.contains("array") || text.contains("record") => ValueType::Json,
            () if text.contains("double") || text.contains("decimal") => ValueType::Double,
            () if text.contains("int") || text.contains("long") => ValueType::Long,
            () if text.contains("boolean") => ValueType::Boolean,
            () => ValueType::String,
        })
    }
}

impl Scope for EventScope<'_> {
    fn resolve(&self, path: &[&str]) -> Option<Resolved> {
        let plain = |column: String, data_type: DataType| Some(Resolved { column, data_type, nested: Vec::new() });
        let (first, rest) = path.split_first()?;
        if rest.is_empty() {
            let index = event::NAMES.iter().position(|name| name == first)?;
            let json = matches!(index, column::PROPERTIES | column::TRAITS | column::CONTEXT | column::ENRICHED);
            let data_type = event::envelope_schema().field(index).data_type().clone();
            return if json { None } else { plain(first.to_string(), data_type) };
        }
        let steps = || rest.iter().map(|step| step.to_string()).collect::<Vec<_>>();
        let field = match super::inputs::json_root(first) {
            Some(root) => {
                let contract = (root == Root::Properties).then(|| self.contract_type(rest[0])).flatten();
                if root == Root::Properties && !self.open && contract.is_none() {
                    return None;
                }
                let value_type = contract.unwrap_or(ValueType::String);
                Field { root, path: steps(), value_type, presence: false }
            }
            None => {
                let columns = self.aliases.get(*first)?;
                let (_, value_type) = columns.iter().find(|(name, _)| rest == [name.as_str()])?;
                let path = path.iter().map(|step| step.to_string()).collect();
                Field { root: Root::Enriched, path, value_type: *value_type, presence: false }
            }
        };
        let mut fields = self.fields.borrow_mut();
        if !fields.contains(&field) {
            fields.push(field.clone());
        }
        plain(field.column_name(), field.value_type.arrow())
    }

    fn names(&self) -> Vec<String> {
        let contracts = self.contracts.iter().flat_map(|schema| schema["fields"].as_array().into_iter().flatten());
        let properties = contracts.filter_map(|field| field["name"].as_str()).map(|name| format!("properties.{name}"));
        event::NAMES.iter().map(|name| name.to_string()).chain(properties).collect()
    }
}

pub struct MapScope(ColumnScope);

impl MapScope {
    pub fn new(schema: &arrow::datatypes::Schema) -> Self {
        let mut scope = ColumnScope::new();
        for field in schema.fields() {
            scope.add_column(field.name(), field.data_type().clone());
        }
        scope.add_column("_offset", DataType::Int64);
        MapScope(scope)
    }
}

impl Scope for MapScope {
    fn resolve(&self, path: &[&str]) -> Option<Resolved> {
        self.0.resolve(path)
    }

    fn names(&self) -> Vec<String> {
        self.0.names()
    }
}
