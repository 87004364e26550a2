//! What names mean in expressions: over a source's own columns (`map:`), and over events.

use std::cell::RefCell;
use std::collections::BTreeMap;

use arrow::datatypes::{DataType, Field as ArrowField, Fields as ArrowFields, Schema, SchemaRef};

use super::Contract;
use crate::decode::contract::{CompiledContract, unify};
use crate::event::{Field, NAMES, Root, ValueType, envelope_schema, time_type};
use crate::expression::{ColumnScope, Resolved, Scope};

/// The contracts by event name, compiled.
#[derive(Debug, Clone, Default)]
pub struct Contracts {
    by_event: BTreeMap<String, CompiledContract>,
}

impl Contracts {
    /// # Errors
    /// The contract that cannot be used, and why.
    pub fn compile(contracts: &[Contract]) -> Result<Contracts, (Contract, String)> {
        let mut by_event = BTreeMap::new();
        for contract in contracts {
            let compiled = CompiledContract::compile(&contract.schema).map_err(|why| (contract.clone(), why))?;
            by_event.insert(contract.event.clone(), compiled);
        }
        Ok(Contracts { by_event })
    }

    pub fn get(&self, event: &str) -> Option<&CompiledContract> {
        self.by_event.get(event)
    }

    pub fn is_empty(&self) -> bool {
        self.by_event.is_empty()
    }
}

/// Table columns by the `as` name of the `enrich` step that adds them.
pub type Aliases = BTreeMap<String, Vec<(String, ValueType)>>;

/// The columns of a source and the record's position: what `map:` may use.
pub struct MapScope {
    schema: SchemaRef,
    columns: ColumnScope,
}

/// The record's position beside a source's columns.
pub fn with_position(schema: &Schema) -> SchemaRef {
    let position = [
        ArrowField::new("_topic", DataType::Utf8, false),
        ArrowField::new("_partition", DataType::Int32, false),
        ArrowField::new("_offset", DataType::Int64, false),
        ArrowField::new("_timestamp", time_type(), false),
    ];
    let own = schema.fields().iter().filter(|field| position.iter().all(|other| other.name() != field.name()));
    let all: Vec<ArrowField> = own.map(|field| field.as_ref().clone()).chain(position.iter().cloned()).collect();
    std::sync::Arc::new(Schema::new(all))
}

impl MapScope {
    /// Over the columns a source decodes to.
    pub fn new(schema: &Schema) -> Self {
        let schema = with_position(schema);
        let mut columns = ColumnScope::new();
        for field in schema.fields() {
            let column =
                Resolved { column: field.name().clone(), data_type: field.data_type().clone(), nested: Vec::new() };
            columns.add(&[field.name()], column);
        }
        MapScope { schema, columns }
    }
}

impl Scope for MapScope {
    fn resolve(&self, path: &[&str]) -> Option<Resolved> {
        self.columns.resolve(path)
    }

    fn names(&self) -> Vec<String> {
        fn add(fields: &ArrowFields, prefix: &str, depth: usize, names: &mut Vec<String>) {
            for field in fields {
                let name = format!("{prefix}{}", field.name());
                names.push(name.clone());
                if let DataType::Struct(inner) = field.data_type()
                    && depth < 8
                {
                    add(inner, &format!("{name}."), depth + 1, names);
                }
            }
        }
        let mut names = Vec::new();
        add(self.schema.fields(), "", 0, &mut names);
        names
    }
}

/// The envelope, the JSON of certain events and the tables joined to them.
///
/// With a contract for every named event a property that none of them has is unknown. Without, it is text:
/// `properties.total::double` makes it a number. Every JSON path that is asked for is remembered as the field column
/// that an expression over it needs.
pub struct EventScope<'a> {
    contracts: &'a Contracts,
    /// All events where None.
    events: Option<&'a [String]>,
    aliases: &'a Aliases,
    fields: RefCell<Vec<Field>>,
}

impl<'a> EventScope<'a> {
    pub fn new(contracts: &'a Contracts, events: Option<&'a [String]>, aliases: &'a Aliases) -> Self {
        EventScope { contracts, events, aliases, fields: RefCell::new(Vec::new()) }
    }

    /// The field columns that were asked for, each once, in order of first use.
    pub fn fields(&self) -> Vec<Field> {
        self.fields.borrow().clone()
    }

    /// The field that a path stands for; None when it is none (an envelope column, an unknown name).
    pub fn field(&self, path: &[&str]) -> Option<Field> {
        let (first, rest) = path.split_first()?;
        if rest.is_empty() {
            return None;
        }
        let field = |root, path: &[&str], value_type| Field {
            root,
            path: path.iter().map(|key| key.to_string()).collect(),
            value_type,
            presence: false,
        };
        match *first {
            "properties" => Some(field(Root::Properties, rest, self.property_type(rest)?)),
            "traits" => Some(field(Root::Traits, rest, known_type(&TRAITS, rest))),
            "context" => Some(field(Root::Context, rest, known_type(&CONTEXT, rest))),
            alias => {
                let columns = self.aliases.get(alias)?;
                let [column] = rest else { return None };
                let (_, value_type) = columns.iter().find(|(name, _)| name == column)?;
                Some(field(Root::Enriched, path, *value_type))
            }
        }
    }

    fn property_type(&self, path: &[&str]) -> Option<ValueType> {
        let known: Vec<Option<&CompiledContract>> = match self.events {
            Some(events) => events.iter().map(|event| self.contracts.get(event)).collect(),
            // Events without a contract may always come.
            None => self.contracts.by_event.values().map(Some).chain([None]).collect(),
        };
        let types = known.iter().flatten().filter_map(|contract| contract.value_type(path));
        let open = known.is_empty() || known.iter().any(Option::is_none);
        types.reduce(unify).or(open.then_some(ValueType::String))
    }
}

impl Scope for EventScope<'_> {
    fn resolve(&self, path: &[&str]) -> Option<Resolved> {
        if let [name] = path {
            let column = COLUMNS.iter().find(|column| *column == name)?;
            let schema = envelope_schema();
            let field = schema.field_with_name(column).ok()?;
            return Some(Resolved { column: name.to_string(), data_type: field.data_type().clone(), nested: vec![] });
        }
        if let ["identifiers", kind] = path {
            let nested = vec![kind.to_string()];
            return Some(Resolved { column: "identifiers".to_string(), data_type: DataType::Utf8, nested });
        }
        let field = self.field(path)?;
        let resolved =
            Resolved { column: field.column_name(), data_type: field.value_type.arrow(), nested: Vec::new() };
        let mut fields = self.fields.borrow_mut();
        if !fields.contains(&field) {
            fields.push(field);
        }
        Some(resolved)
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = COLUMNS.iter().map(|name| name.to_string()).collect();
        let contracts: Vec<&CompiledContract> = match self.events {
            Some(events) => events.iter().filter_map(|event| self.contracts.get(event)).collect(),
            None => self.contracts.by_event.values().collect(),
        };
        names.extend(contracts.iter().flat_map(|contract| contract.paths()).map(|path| format!("properties.{path}")));
        names.extend(TRAITS.iter().map(|(path, _)| format!("traits.{path}")));
        names.extend(CONTEXT.iter().map(|(path, _)| format!("context.{path}")));
        for (alias, columns) in self.aliases {
            names.extend(columns.iter().map(|(column, _)| format!("{alias}.{column}")));
        }
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// The envelope's columns that expressions may name: all but the identifiers' map and what is only ours.
const COLUMNS: [&str; 18] = {
    use crate::event::column::*;
    [
        NAMES[MESSAGE_ID],
        NAMES[TYPE],
        NAMES[EVENT],
        NAMES[USER_ID],
        NAMES[ANONYMOUS_ID],
        NAMES[GROUP_ID],
        NAMES[PREVIOUS_ID],
        NAMES[TIMESTAMP],
        NAMES[SENT_AT],
        NAMES[RECEIVED_AT],
        NAMES[PROPERTIES],
        NAMES[TRAITS],
        NAMES[CONTEXT],
        NAMES[SOURCE],
        NAMES[TOPIC],
        NAMES[PARTITION],
        NAMES[OFFSET],
        NAMES[INDEX],
    ]
};

/// Text, unless the Segment spec says otherwise; either spelling.
fn known_type(known: &[(&str, ValueType)], path: &[&str]) -> ValueType {
    let path = path.join(".");
    let plain = |text: &str| text.replace('_', "").to_ascii_lowercase();
    let wanted = plain(&path);
    known.iter().find(|(name, _)| plain(name) == wanted).map_or(ValueType::String, |(_, value_type)| *value_type)
}

const TRAITS: [(&str, ValueType); 24] = [
    ("address", ValueType::Json),
    ("address.city", ValueType::String),
    ("address.country", ValueType::String),
    ("address.postal_code", ValueType::String),
    ("address.state", ValueType::String),
    ("address.street", ValueType::String),
    ("age", ValueType::Long),
    ("avatar", ValueType::String),
    ("birthday", ValueType::Timestamp),
    ("company", ValueType::Json),
    ("company.name", ValueType::String),
    ("created_at", ValueType::Timestamp),
    ("description", ValueType::String),
    ("email", ValueType::String),
    ("employees", ValueType::Long),
    ("first_name", ValueType::String),
    ("gender", ValueType::String),
    ("industry", ValueType::String),
    ("last_name", ValueType::String),
    ("name", ValueType::String),
    ("phone", ValueType::String),
    ("title", ValueType::String),
    ("username", ValueType::String),
    ("website", ValueType::String),
];

const CONTEXT: [(&str, ValueType); 43] = [
    ("active", ValueType::Boolean),
    ("app", ValueType::Json),
    ("app.build", ValueType::String),
    ("app.name", ValueType::String),
    ("app.version", ValueType::String),
    ("campaign", ValueType::Json),
    ("campaign.content", ValueType::String),
    ("campaign.medium", ValueType::String),
    ("campaign.name", ValueType::String),
    ("campaign.source", ValueType::String),
    ("campaign.term", ValueType::String),
    ("device", ValueType::Json),
    ("device.id", ValueType::String),
    ("device.manufacturer", ValueType::String),
    ("device.model", ValueType::String),
    ("device.name", ValueType::String),
    ("device.type", ValueType::String),
    ("ip", ValueType::String),
    ("library.name", ValueType::String),
    ("library.version", ValueType::String),
    ("locale", ValueType::String),
    ("location", ValueType::Json),
    ("location.city", ValueType::String),
    ("location.country", ValueType::String),
    ("location.latitude", ValueType::Double),
    ("location.longitude", ValueType::Double),
    ("location.region", ValueType::String),
    ("network.bluetooth", ValueType::Boolean),
    ("network.carrier", ValueType::String),
    ("network.cellular", ValueType::Boolean),
    ("network.wifi", ValueType::Boolean),
    ("os.name", ValueType::String),
    ("os.version", ValueType::String),
    ("page", ValueType::Json),
    ("page.path", ValueType::String),
    ("page.referrer", ValueType::String),
    ("page.search", ValueType::String),
    ("page.title", ValueType::String),
    ("page.url", ValueType::String),
    ("screen.height", ValueType::Long),
    ("screen.width", ValueType::Long),
    ("timezone", ValueType::String),
    ("user_agent", ValueType::String),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn contract(event: &str, fields: &str) -> Contract {
        let schema = format!(r#"{{"type":"record","name":"R","fields":[{fields}]}}"#);
        Contract { event: event.into(), schema, file: "x.avsc".into() }
    }

    #[test]
    fn properties_are_typed_by_the_contracts_of_the_named_events() {
        let contracts = Contracts::compile(&[
            contract(
                "A",
                r#"{"name":"total","type":"long"},{"name":"same","type":"string"},{"name":"mixed","type":"long"}"#,
            ),
            contract("B", r#"{"name":"total","type":"double"},{"name":"mixed","type":"string"}"#),
        ])
        .unwrap();
        let aliases = Aliases::from([("product".into(), vec![("margin".into(), ValueType::Double)])]);
        let check = |events: Option<&[&str]>, path: &str, expect: Option<&str>| {
            let events: Option<Vec<String>> = events.map(|names| names.iter().map(|name| name.to_string()).collect());
            let scope = EventScope::new(&contracts, events.as_deref(), &aliases);
            let resolved = scope.resolve(&path.split('.').collect::<Vec<_>>());
            assert_eq!(resolved.map(|resolved| resolved.column).as_deref(), expect, "{path} of {events:?}");
        };
        check(Some(&["A"]), "properties.total", Some("properties.total:long"));
        check(Some(&["A", "B"]), "properties.total", Some("properties.total:double"));
        check(Some(&["A", "B"]), "properties.mixed", Some("properties.mixed:string"));
        check(Some(&["A", "B"]), "properties.same", Some("properties.same:string"));
        check(Some(&["A", "B"]), "properties.totl", None);
        check(Some(&["A", "C"]), "properties.other", Some("properties.other:string"));
        check(Some(&["C"]), "properties.total", Some("properties.total:string"));
        check(None, "properties.total", Some("properties.total:double"));
        check(None, "properties.other", Some("properties.other:string"));
        check(None, "traits.createdAt", Some("traits.createdAt:timestamp"));
        check(None, "traits.own", Some("traits.own:string"));
        check(None, "context.location.latitude", Some("context.location.latitude:double"));
        check(None, "product.margin", Some("product.margin:double"));
        check(None, "product.margn", None);
        check(None, "user_id", Some("user_id"));
        check(None, "identifiers", None);
        check(None, "identifiers.email", Some("identifiers"));
        check(None, "userid", None);
    }

    #[test]
    fn fields_are_remembered_once_in_order() {
        let (contracts, aliases) = (Contracts::default(), Aliases::new());
        let scope = EventScope::new(&contracts, None, &aliases);
        for path in ["properties.b", "event", "properties.a", "properties.b"] {
            scope.resolve(&path.split('.').collect::<Vec<_>>()).unwrap();
        }
        let names: Vec<String> = scope.fields().iter().map(Field::column_name).collect();
        assert_eq!(names, ["properties.b:string", "properties.a:string"]);
        assert!(scope.names().contains(&"context.page.url".to_string()));
    }

    #[test]
    fn a_map_sees_nested_columns_and_the_position() {
        let inner = ArrowFields::from(vec![ArrowField::new("no", DataType::Int64, true)]);
        let schema = Schema::new(vec![ArrowField::new("customer", DataType::Struct(inner), true)]);
        let scope = MapScope::new(&schema);
        let resolved = scope.resolve(&["customer", "no"]).unwrap();
        assert_eq!((resolved.nested, resolved.data_type), (vec!["no".to_string()], DataType::Int64));
        assert_eq!(scope.resolve(&["customer", "nr"]), None);
        assert_eq!(scope.resolve(&["_offset"]).unwrap().data_type, DataType::Int64);
        assert!(scope.names().contains(&"customer.no".to_string()));
        let _: Arc<Schema> = with_position(&schema);
    }
}
