//! An Avro schema, parsed from its JSON into flat nodes with all names resolved: what the walker follows and what
//! writer and reader are compared by.
//!
//! More lenient than a validator: default values are not checked, and a logical type that does not fit its underlying
//! type is ignored, as Avro prescribes. Named types are nodes like any other, so a recursive schema is a cycle.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field as ArrowField, Fields, IntervalUnit, TimeUnit};
use serde_json::Value;

use super::DecodeError;
use crate::event::time_type;

/// Index into [`Schema::nodes`].
pub type NodeId = usize;

/// Deeper nesting of values is refused: in the data by the walker, in a schema when it is laid out.
pub const DEPTH_MAX: usize = 64;

#[derive(Debug, Clone, PartialEq)]
pub struct Schema {
    pub nodes: Vec<Node>,
    pub root: NodeId,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    Null,
    Boolean,
    Int(Logical),
    Long(Logical),
    Float,
    Double,
    Bytes(Logical),
    String,
    Fixed { name: String, size: usize, logical: Logical },
    Enum { name: String, symbols: Vec<String>, default: Option<String> },
    Array(NodeId),
    Map(NodeId),
    Union(Vec<NodeId>),
    Record { name: String, fields: Vec<Field> },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    pub name: String,
    pub aliases: Vec<String>,
    pub node: NodeId,
    pub default: Option<Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logical {
    None,
    Date,
    TimeMillis,
    TimeMicros,
    Timestamp(Unit),
    LocalTimestamp(Unit),
    Decimal { precision: u8, scale: u8 },
    Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Millis,
    Micros,
    Nanos,
}

impl Schema {
    pub fn parse(json: &str) -> Result<Schema, DecodeError> {
        let value: Value =
            serde_json::from_str(json).map_err(|error| DecodeError::Schema(format!("not JSON: {error}")))?;
        let mut parser = Parser { nodes: Vec::new(), names: HashMap::new() };
        let root = parser.parse(&value, "")?;
        Ok(Schema { nodes: parser.nodes, root })
    }

    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }

    /// The fields of the root record; an error where the root is something else.
    pub fn root_fields(&self) -> Result<&[Field], DecodeError> {
        match self.node(self.root) {
            Node::Record { fields, .. } => Ok(fields),
            other => Err(DecodeError::Schema(format!("an event must be a record, this schema is {}", other.kind()))),
        }
    }

    /// `(T, true)` for a union of null and one type T in either order, `(id, false)` for anything else.
    pub fn nullable(&self, id: NodeId) -> (NodeId, bool) {
        let Node::Union(branches) = self.node(id) else { return (id, false) };
        match branches[..] {
            [null, other] | [other, null] if *self.node(null) == Node::Null => (other, true),
            _ => (id, false),
        }
    }

    /// The Arrow fields of the root record as this crate hands them on: text as `Utf8` (enums too), timestamps in
    /// UTC microseconds, maps and lists with the field names of arrow's own builders.
    pub fn arrow_fields(&self) -> Result<Fields, DecodeError> {
        self.root_fields()?.iter().map(|field| self.arrow_field(field, &field.name, 1)).collect()
    }

    fn arrow_field(&self, field: &Field, path: &str, depth: usize) -> Result<ArrowField, DecodeError> {
        let (node, nullable) = self.nullable(field.node);
        let data_type = self.arrow_type(node, path, depth)?;
        let nullable = nullable || data_type == DataType::Null;
        Ok(ArrowField::new(&field.name, data_type, nullable))
    }

    fn arrow_type(&self, id: NodeId, path: &str, depth: usize) -> Result<DataType, DecodeError> {
        if depth > DEPTH_MAX {
            return Err(DecodeError::Schema(format!(
                "`{path}` is recursive or nested more than {DEPTH_MAX} deep, which columns cannot hold"
            )));
        }
        let inner = |id: NodeId| match self.node(id) {
            // arrow-avro builds no such column, and nobody needs one.
            Node::Null => Err(DecodeError::Schema(format!("`{path}` holds nothing but nulls, which is no column"))),
            _ => self.arrow_type(self.nullable(id).0, path, depth + 1),
        };
        Ok(match self.node(id) {
            Node::Null => DataType::Null,
            Node::Boolean => DataType::Boolean,
            Node::Int(Logical::Date) => DataType::Date32,
            Node::Int(Logical::TimeMillis) => DataType::Time32(TimeUnit::Millisecond),
            Node::Int(_) => DataType::Int32,
            Node::Long(Logical::TimeMicros) => DataType::Time64(TimeUnit::Microsecond),
            Node::Long(Logical::Timestamp(_)) => time_type(),
            Node::Long(Logical::LocalTimestamp(_)) => DataType::Timestamp(TimeUnit::Microsecond, None),
            Node::Long(_) => DataType::Int64,
            Node::Float => DataType::Float32,
            Node::Double => DataType::Float64,
            Node::Bytes(Logical::Decimal { precision, scale })
            | Node::Fixed { logical: Logical::Decimal { precision, scale }, .. } => {
                let (precision, scale) = (*precision, *scale as i8);
                if precision <= 38 {
                    DataType::Decimal128(precision, scale)
                } else {
                    DataType::Decimal256(precision, scale)
                }
            }
            Node::Bytes(_) => DataType::Binary,
            Node::String | Node::Enum { .. } => DataType::Utf8,
            Node::Fixed { logical: Logical::Duration, .. } => DataType::Interval(IntervalUnit::MonthDayNano),
            Node::Fixed { size, .. } => DataType::FixedSizeBinary(*size as i32),
            Node::Array(items) => DataType::List(Arc::new(ArrowField::new_list_field(inner(*items)?, true))),
            Node::Map(values) => {
                let entries = Fields::from(vec![
                    ArrowField::new("keys", DataType::Utf8, false),
                    ArrowField::new("values", inner(*values)?, true),
                ]);
                DataType::Map(Arc::new(ArrowField::new("entries", DataType::Struct(entries), false)), false)
            }
            Node::Union(_) => {
                return Err(DecodeError::Schema(format!(
                    "`{path}` is a union of several types; only [null, T] can be a column"
                )));
            }
            Node::Record { fields, .. } if fields.is_empty() => {
                return Err(DecodeError::Schema(format!("`{path}` is a record without fields, which is no column")));
            }
            Node::Record { fields, .. } => {
                let fields = fields
                    .iter()
                    .map(|field| self.arrow_field(field, &format!("{path}.{}", field.name), depth + 1))
                    .collect::<Result<Fields, DecodeError>>()?;
                DataType::Struct(fields)
            }
        })
    }
}

impl Node {
    /// A number that counts units of time.
    pub fn is_time(&self) -> bool {
        matches!(self, Node::Int(logical) | Node::Long(logical) if *logical != Logical::None)
    }

    /// For messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Node::Null => "null",
            Node::Boolean => "boolean",
            Node::Int(_) => "int",
            Node::Long(_) => "long",
            Node::Float => "float",
            Node::Double => "double",
            Node::Bytes(_) => "bytes",
            Node::String => "string",
            Node::Fixed { .. } => "fixed",
            Node::Enum { .. } => "enum",
            Node::Array(_) => "array",
            Node::Map(_) => "map",
            Node::Union(_) => "union",
            Node::Record { .. } => "record",
        }
    }
}

struct Parser {
    nodes: Vec<Node>,
    /// Full name to node; registered before the body is parsed, so that a type can name itself.
    names: HashMap<String, NodeId>,
}

fn bad(what: impl std::fmt::Display) -> DecodeError {
    DecodeError::Schema(what.to_string())
}

fn text<'a>(object: &'a serde_json::Map<String, Value>, key: &str) -> Option<&'a str> {
    object.get(key).and_then(Value::as_str)
}

fn required<'a>(object: &'a serde_json::Map<String, Value>, key: &str, kind: &str) -> Result<&'a Value, DecodeError> {
    object.get(key).ok_or_else(|| bad(format!("{kind} without `{key}`")))
}

impl Parser {
    fn add(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// Nesting is bounded by serde_json's own limit of 128.
    fn parse(&mut self, value: &Value, namespace: &str) -> Result<NodeId, DecodeError> {
        match value {
            Value::String(name) => self.named(name, namespace),
            Value::Array(branches) => {
                let branches: Vec<NodeId> =
                    branches.iter().map(|branch| self.parse(branch, namespace)).collect::<Result<_, _>>()?;
                if branches.is_empty() {
                    return Err(bad("a union without branches"));
                }
                if branches.iter().any(|branch| matches!(self.nodes[*branch], Node::Union(_))) {
                    return Err(bad("a union directly inside a union"));
                }
                Ok(self.add(Node::Union(branches)))
            }
            Value::Object(object) => match object.get("type") {
                Some(Value::String(kind)) => self.object(object, kind, namespace),
                Some(nested) => self.parse(nested, namespace),
                None => Err(bad("a type without `type`")),
            },
            other => Err(bad(format!("{other} where a type is expected"))),
        }
    }

    fn named(&mut self, name: &str, namespace: &str) -> Result<NodeId, DecodeError> {
        let node = match name {
            "null" => Node::Null,
            "boolean" => Node::Boolean,
            "int" => Node::Int(Logical::None),
            "long" => Node::Long(Logical::None),
            "float" => Node::Float,
            "double" => Node::Double,
            "bytes" => Node::Bytes(Logical::None),
            "string" => Node::String,
            _ => {
                let full = if name.contains('.') { name.to_owned() } else { join(namespace, name) };
                let known = self.names.get(&full).or_else(|| self.names.get(name));
                return known.copied().ok_or_else(|| bad(format!("the type `{full}` is not defined before its use")));
            }
        };
        Ok(self.add(node))
    }

    fn object(
        &mut self,
        object: &serde_json::Map<String, Value>,
        kind: &str,
        namespace: &str,
    ) -> Result<NodeId, DecodeError> {
        match kind {
            "array" => {
                let items = self.parse(required(object, "items", kind)?, namespace)?;
                Ok(self.add(Node::Array(items)))
            }
            "map" => {
                let values = self.parse(required(object, "values", kind)?, namespace)?;
                Ok(self.add(Node::Map(values)))
            }
            "fixed" => {
                let (id, name, _) = self.define(object, kind, namespace)?;
                let size = required(object, "size", kind)?.as_u64();
                let size = size.filter(|size| *size <= i32::MAX as u64);
                let size = size.ok_or_else(|| bad(format!("fixed `{name}` without a valid `size`")))? as usize;
                let logical = match text(object, "logicalType") {
                    Some("decimal") => decimal(object, Some(size)),
                    Some("duration") if size == 12 => Logical::Duration,
                    _ => Logical::None,
                };
                self.nodes[id] = Node::Fixed { name, size, logical };
                Ok(id)
            }
            "enum" => {
                let (id, name, _) = self.define(object, kind, namespace)?;
                let symbols = required(object, "symbols", kind)?.as_array();
                let symbols: Option<Vec<String>> =
                    symbols.and_then(|all| all.iter().map(|symbol| symbol.as_str().map(str::to_owned)).collect());
                let symbols = symbols.ok_or_else(|| bad(format!("enum `{name}` whose `symbols` are not strings")))?;
                let default = text(object, "default").map(str::to_owned);
                self.nodes[id] = Node::Enum { name, symbols, default };
                Ok(id)
            }
            "record" | "error" => {
                let (id, name, namespace) = self.define(object, kind, namespace)?;
                let declared = required(object, "fields", kind)?.as_array();
                let declared = declared.ok_or_else(|| bad(format!("record `{name}` whose `fields` are no list")))?;
                let mut fields: Vec<Field> = Vec::with_capacity(declared.len());
                for field in declared {
                    let field_name = field.get("name").and_then(Value::as_str);
                    let field_name = field_name.ok_or_else(|| bad(format!("record `{name}` has a nameless field")))?;
                    if fields.iter().any(|other| other.name == field_name) {
                        return Err(bad(format!("record `{name}` has two fields `{field_name}`")));
                    }
                    let field_type = field.get("type");
                    let field_type = field_type.ok_or_else(|| bad(format!("field `{field_name}` without `type`")))?;
                    let node = self.parse(field_type, &namespace)?;
                    let aliases = field.get("aliases").and_then(Value::as_array);
                    let aliases = aliases.into_iter().flatten().filter_map(|alias| alias.as_str().map(str::to_owned));
                    fields.push(Field {
                        name: field_name.to_owned(),
                        aliases: aliases.collect(),
                        node,
                        default: field.get("default").cloned(),
                    });
                }
                self.nodes[id] = Node::Record { name, fields };
                Ok(id)
            }
            _ => {
                let id = self.named(kind, namespace)?;
                // Only a primitive, which is a node of its own, takes a logical type.
                let logical = text(object, "logicalType").unwrap_or_default();
                match &mut self.nodes[id] {
                    Node::Int(of) => *of = int_logical(logical),
                    Node::Long(of) => *of = long_logical(logical),
                    Node::Bytes(of) if logical == "decimal" => *of = decimal(object, None),
                    _ => {}
                }
                Ok(id)
            }
        }
    }

    /// Registers a named type; returns its node, its name without namespace, and the namespace inside it.
    fn define(
        &mut self,
        object: &serde_json::Map<String, Value>,
        kind: &str,
        namespace: &str,
    ) -> Result<(NodeId, String, String), DecodeError> {
        let name = text(object, "name").ok_or_else(|| bad(format!("{kind} without `name`")))?;
        let (namespace, name) = match name.rsplit_once('.') {
            Some((namespace, name)) => (namespace, name),
            None => (text(object, "namespace").unwrap_or(namespace), name),
        };
        let id = self.add(Node::Null);
        if self.names.insert(join(namespace, name), id).is_some() {
            return Err(bad(format!("the type `{}` is defined twice", join(namespace, name))));
        }
        Ok((id, name.to_owned(), namespace.to_owned()))
    }
}

fn join(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}.{name}") }
}

fn int_logical(name: &str) -> Logical {
    match name {
        "date" => Logical::Date,
        "time-millis" => Logical::TimeMillis,
        _ => Logical::None,
    }
}

fn long_logical(name: &str) -> Logical {
    match name {
        "time-micros" => Logical::TimeMicros,
        "timestamp-millis" => Logical::Timestamp(Unit::Millis),
        "timestamp-micros" => Logical::Timestamp(Unit::Micros),
        "timestamp-nanos" => Logical::Timestamp(Unit::Nanos),
        "local-timestamp-millis" => Logical::LocalTimestamp(Unit::Millis),
        "local-timestamp-micros" => Logical::LocalTimestamp(Unit::Micros),
        "local-timestamp-nanos" => Logical::LocalTimestamp(Unit::Nanos),
        _ => Logical::None,
    }
}

fn decimal(object: &serde_json::Map<String, Value>, size: Option<usize>) -> Logical {
    let precision = object.get("precision").and_then(Value::as_u64).unwrap_or(0);
    let scale = object.get("scale").map_or(Some(0), Value::as_u64).unwrap_or(u64::MAX);
    // Digits that a two's complement number of this many bytes can always hold.
    let digits_max = size.map_or(76, |size| (((8 * size.min(32)).max(1) - 1) as f64 * 2f64.log10()).floor() as u64);
    let fits = precision >= 1 && precision <= digits_max.min(76) && scale <= precision;
    if fits && size.is_none_or(|size| (1..=32).contains(&size)) {
        Logical::Decimal { precision: precision as u8, scale: scale as u8 }
    } else {
        Logical::None
    }
}
