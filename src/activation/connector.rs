//! Connectors: how one vendor's HTTP interface is called, as data. Texts may hold `{{ … }}`, filled in when something is sent,
//! over `delivery`, `body` and `with`; conditions are expressions over the answer.

/// A checked connector.
#[derive(Debug, Clone)]
pub struct ConnectorPlan {
    pub name: String,
    pub parameters: Vec<Parameter>,
    pub auth: ConnectorAuth,
    /// One without a name, or several of which the body's `op` names one.
    pub operations: Vec<Operation>,
    /// Besides `Retry-After`.
    pub wait: Option<WaitHeader>,
}

/// A key of `with`.
#[derive(Debug, Clone)]
pub struct Parameter {
    pub name: String,
    pub secret: bool,
    pub optional: bool,
    pub default: Option<String>,
}

#[derive(Debug, Clone)]
pub enum ConnectorAuth {
    None,
    Bearer(String),
    Basic { user: String, password: String },
    Header { name: String, value: String },
    Query { name: String, value: String },
    OAuth2(OAuth2),
}

#[derive(Debug, Clone)]
pub struct OAuth2 {
    pub grant: Grant,
    pub token_url: String,
    pub client_id: String,
    pub client_secret: String,
    pub refresh_token: Option<String>,
    pub scope: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    ClientCredentials,
    RefreshToken,
}

#[derive(Debug, Clone)]
pub struct Operation {
    pub name: Option<String>,
    /// Keys that a body must have.
    pub needs: Vec<String>,
    /// Bodies that are not sent.
    pub refuse: Vec<Refusal>,
    pub method: String,
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub encode: Encode,
    /// None for a request without a body.
    pub body: Option<serde_json::Value>,
    pub batch: Option<Batch>,
    /// The first that holds decides; then the status does.
    pub answers: Vec<AnswerRule>,
    pub per_item: Option<PerItem>,
    /// The vendor makes the same of a repeat; where it does not, a lost answer is uncertain.
    pub drops_repeats: bool,
}

#[derive(Debug, Clone)]
pub struct Refusal {
    pub when: String,
    pub because: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encode {
    Json,
    Form,
}

/// Several deliveries in one request; `items` in the request's body is the list of them.
#[derive(Debug, Clone)]
pub struct Batch {
    pub max: u32,
    pub item: serde_json::Value,
}

#[derive(Debug, Clone)]
pub struct AnswerRule {
    pub when: String,
    pub then: Verdict,
    /// An expression: what is said about it.
    pub because: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Done,
    Retry,
    Drop,
}

/// Which deliveries of a request that was taken were not.
#[derive(Debug, Clone)]
pub struct PerItem {
    /// The list of errors in the answer.
    pub errors: String,
    /// Whether `error` (at `error_index`) is about the delivery `body`, `delivery`, `item` (at `index`).
    pub of: String,
    /// Whether such an error may pass.
    pub retry: Option<String>,
    pub because: Option<String>,
}

/// A header that says when to try again.
#[derive(Debug, Clone)]
pub struct WaitHeader {
    pub header: String,
    pub unit: WaitUnit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitUnit {
    Seconds,
    Milliseconds,
    /// Seconds since 1970.
    Unix,
}
