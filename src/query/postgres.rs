//! The lake over PostgreSQL's protocol, for tools that ask in SQL: the tables, views and functions of `tributary query`, to be read
//! only. The protocol, the catalog that tools ask for and the types are `datafusion-postgres`'s; here is what is ours: each
//! connection has a session of its own, every statement is planned over the lake as it is now, ClickHouse's forms are rewritten
//! first, nothing is written, and a statement takes so long at the most.

mod catalog;
mod hooks;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::sqlparser::ast::Statement;
use datafusion_postgres::hooks::cursor::CursorStatementHook;
use datafusion_postgres::hooks::set_show::SetShowHook;
use datafusion_postgres::hooks::transactions::TransactionStatementHook;
use datafusion_postgres::pgwire::api::auth::noop::NoopStartupHandler;
use datafusion_postgres::pgwire::api::auth::sasl::SASLAuthStartupHandler;
use datafusion_postgres::pgwire::api::auth::sasl::scram::{SCRAM_ITERATIONS, ScramAuth, gen_salted_password};
use datafusion_postgres::pgwire::api::auth::{
    AuthSource, DefaultServerParameterProvider, LoginInfo, Password, StartupHandler,
};
use datafusion_postgres::pgwire::api::cancel::{CancelHandler, DefaultCancelHandler};
use datafusion_postgres::pgwire::api::portal::{Format, Portal};
use datafusion_postgres::pgwire::api::query::{ExtendedQueryHandler, SimpleQueryHandler};
use datafusion_postgres::pgwire::api::results::{FieldInfo, Response};
use datafusion_postgres::pgwire::api::stmt::{QueryParser, StoredStatement};
use datafusion_postgres::pgwire::api::store::PortalStore;
use datafusion_postgres::pgwire::api::{ClientInfo, ClientPortalStore, ConnectionManager, PgWireServerHandlers, Type};
use datafusion_postgres::pgwire::error::{ErrorInfo, PgWireError, PgWireResult};
use datafusion_postgres::pgwire::messages::{PgWireBackendMessage, PgWireFrontendMessage};
use datafusion_postgres::pgwire::tokio::process_socket;
use datafusion_postgres::{DfSessionService, Parser, QueryHook};
use futures::{Sink, StreamExt as _};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinSet;

use self::hooks::{ReadOnly, Reading};
use super::lake::{self, Reader};
use super::{QueryError, functions};

/// What one server may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Of all statements together, for sorts, joins and groups.
    pub memory_bytes: usize,
    /// From the statement to its last row.
    pub statement: Duration,
    /// Further ones wait to be taken.
    pub connections: usize,
}

/// Serves the lake in this data folder or URL until `stop` is done. Connections that are open then are closed.
///
/// # Errors
/// [`QueryError::Unavailable`]: there is no lake yet. What befalls one connection ends that one.
pub async fn serve(
    listener: TcpListener,
    root: &str,
    password: Option<String>,
    limits: Limits,
    stop: impl Future<Output = ()>,
) -> Result<(), QueryError> {
    lake::latest(root).await?;
    let pool = Arc::new(GreedyMemoryPool::new(limits.memory_bytes));
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(pool).build_arc();
    let runtime = runtime.map_err(|error| QueryError::Unavailable(error.strip_backtrace()))?;
    let connections = Arc::new(ConnectionManager::new());
    let places = Arc::new(Semaphore::new(limits.connections));
    let mut open = JoinSet::new();
    tokio::pin!(stop);
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
        let accepted = tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        while open.try_join_next().is_some() {}
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: give others the time to end.
                tracing::warn!("a connection was not taken: {error}");
                crate::clock::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (root, runtime, password) = (root.to_string(), runtime.clone(), password.clone());
        let connections = connections.clone();
        open.spawn(async move {
            match Connection::new(&root, runtime, limits, password, connections) {
                Ok(session) => {
                    if let Err(error) = process_socket(socket, None, session).await {
                        tracing::info!("connection from {peer}: {error}");
                    }
                }
                Err(error) => tracing::warn!("connection from {peer}: {error}"),
            }
            drop(place);
        });
    }
    open.shutdown().await;
    Ok(())
}

/// What the library keeps of a statement: its text, and what it was parsed and planned as.
type Prepared = (String, Option<(Statement, LogicalPlan)>);

struct Connection {
    service: Arc<Service>,
    startup: Arc<Startup>,
    cancel: Arc<DefaultCancelHandler>,
}

impl Connection {
    fn new(
        root: &str,
        runtime: Arc<RuntimeEnv>,
        limits: Limits,
        password: Option<String>,
        connections: Arc<ConnectionManager>,
    ) -> Result<Connection, QueryError> {
        let reader = Reader::open(root, runtime)?;
        let context = Arc::new(reader.context.clone());
        catalog::register(&context).map_err(|error| QueryError::Unavailable(error.strip_backtrace()))?;
        let hooks: Vec<Arc<dyn QueryHook>> = vec![
            Arc::new(ReadOnly),
            Arc::new(CursorStatementHook),
            Arc::new(SetShowHook),
            Arc::new(TransactionStatementHook),
            Arc::new(Reading),
        ];
        let inner = Arc::new(DfSessionService::new_with_hooks(context, hooks));
        let parser = Arc::new(Planner { reader: Mutex::new(reader), inner: inner.query_parser() });
        let startup = match password {
            None => Startup::Open(Open(connections.clone())),
            Some(password) => {
                let scram = ScramAuth::new(Arc::new(OnePassword(password)));
                let provider = Arc::new(parameters());
                let handler = SASLAuthStartupHandler::new(provider).with_scram(scram);
                Startup::Password(Box::new(handler.with_connection_manager(connections.clone())))
            }
        };
        Ok(Connection {
            service: Arc::new(Service { inner, parser, limit: limits.statement }),
            startup: Arc::new(startup),
            cancel: Arc::new(DefaultCancelHandler::new(connections)),
        })
    }
}

impl PgWireServerHandlers for Connection {
    fn simple_query_handler(&self) -> Arc<impl SimpleQueryHandler> {
        self.service.clone()
    }

    fn extended_query_handler(&self) -> Arc<impl ExtendedQueryHandler> {
        self.service.clone()
    }

    fn startup_handler(&self) -> Arc<impl StartupHandler> {
        self.startup.clone()
    }

    fn cancel_handler(&self) -> Arc<impl CancelHandler> {
        self.cancel.clone()
    }
}

fn parameters() -> DefaultServerParameterProvider {
    let mut parameters = DefaultServerParameterProvider::default();
    parameters.is_superuser = false;
    parameters.default_transaction_read_only = true;
    parameters.server_version = catalog::VERSION.to_string();
    parameters
}

enum Startup {
    Open(Open),
    Password(Box<SASLAuthStartupHandler<DefaultServerParameterProvider>>),
}

/// Whoever can reach it may ask.
struct Open(Arc<ConnectionManager>);

impl NoopStartupHandler for Open {
    fn connection_manager(&self) -> Option<Arc<ConnectionManager>> {
        Some(self.0.clone())
    }
}

#[async_trait]
impl StartupHandler for Startup {
    async fn on_startup<C>(&self, client: &mut C, message: PgWireFrontendMessage) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: std::fmt::Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        match self {
            Startup::Open(open) => open.on_startup(client, message).await,
            Startup::Password(password) => password.on_startup(client, message).await,
        }
    }
}

/// The same for every user name. Never shown.
struct OnePassword(String);

impl std::fmt::Debug for OnePassword {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnePassword(…)")
    }
}

#[async_trait]
impl AuthSource for OnePassword {
    async fn get_password(&self, _: &LoginInfo) -> PgWireResult<Password> {
        let salt: [u8; 16] = rand_salt();
        let hash = gen_salted_password(&self.0, &salt, SCRAM_ITERATIONS);
        Ok(Password::new(Some(salt.to_vec()), hash))
    }
}

fn rand_salt() -> [u8; 16] {
    let text = datafusion_postgres::pgwire::api::auth::sasl::scram::random_nonce();
    let mut salt = [0; 16];
    for (byte, from) in salt.iter_mut().zip(text.bytes()) {
        *byte = from;
    }
    salt
}

/// Plans statements over the lake as it is at that moment.
struct Planner {
    reader: Mutex<Reader>,
    inner: Arc<Parser>,
}

impl Planner {
    /// The text as DataFusion takes it, and the tables of now.
    async fn prepare(&self, sql: &str) -> PgWireResult<String> {
        self.reader.lock().await.renew().await.map_err(said)?;
        let rewritten = functions::rewritten(sql).map_err(|error| said(QueryError::Sql(error)))?;
        Ok(rewritten.unwrap_or_else(|| sql.to_string()))
    }
}

#[async_trait]
impl QueryParser for Planner {
    type Statement = Prepared;

    async fn parse_sql<C>(&self, client: &C, sql: &str, types: &[Option<Type>]) -> PgWireResult<Option<Prepared>>
    where
        C: ClientInfo + Unpin + Send + Sync,
    {
        let text = self.prepare(sql).await?;
        let prepared = self.inner.parse_sql(client, &text, types).await?;
        // With the text as it came, so that it can be planned again.
        Ok(prepared.map(|(_, plan)| (sql.to_string(), plan)))
    }

    fn get_parameter_types(&self, statement: &Prepared) -> PgWireResult<Vec<Type>> {
        self.inner.get_parameter_types(statement)
    }

    fn get_result_schema(&self, statement: &Prepared, format: Option<&Format>) -> PgWireResult<Vec<FieldInfo>> {
        self.inner.get_result_schema(statement, format)
    }
}

struct Service {
    inner: Arc<DfSessionService>,
    parser: Arc<Planner>,
    limit: Duration,
}

impl Service {
    fn too_long(limit: Duration) -> PgWireError {
        user_error("57014", format!("the statement took longer than {} s and was ended", limit.as_secs()))
    }

    /// The rows of an answer until the time is up.
    fn until(limit: Duration, end: tokio::time::Instant, response: Response) -> Response {
        let Response::Query(mut answer) = response else { return response };
        let rows = std::mem::replace(&mut answer.data_rows, Box::pin(futures::stream::empty()));
        answer.data_rows = Box::pin(futures::stream::unfold(Some(rows), move |rows| async move {
            let mut rows = rows?;
            match tokio::time::timeout_at(end, rows.next()).await {
                Ok(row) => Some((row?, Some(rows))),
                Err(_) => Some((Err(Service::too_long(limit)), None)),
            }
        }));
        Response::Query(answer)
    }
}

#[async_trait]
impl SimpleQueryHandler for Service {
    async fn do_query<C>(&self, client: &mut C, query: &str) -> PgWireResult<Vec<Response>>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: std::fmt::Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let end = tokio::time::Instant::now() + self.limit;
        let query = self.parser.prepare(query).await?;
        let asked = SimpleQueryHandler::do_query(&*self.inner, client, &query);
        let responses = tokio::time::timeout_at(end, asked).await.map_err(|_| Service::too_long(self.limit))??;
        Ok(responses.into_iter().map(|response| Service::until(self.limit, end, response)).collect())
    }
}

#[async_trait]
impl ExtendedQueryHandler for Service {
    type Statement = Prepared;
    type QueryParser = Planner;

    fn query_parser(&self) -> Arc<Planner> {
        self.parser.clone()
    }

    async fn do_query<C>(&self, client: &mut C, portal: &Portal<Prepared>, max_rows: usize) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: std::fmt::Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let end = tokio::time::Instant::now() + self.limit;
        // What was prepared a while ago names files that may be gone.
        let known = &portal.statement;
        let again = self.parser.parse_sql(&*client, &known.statement.0, &known.parameter_types).await?;
        let mut now = Portal::default();
        now.name.clone_from(&portal.name);
        let statement = again.unwrap_or_else(|| known.statement.clone());
        now.statement = Arc::new(StoredStatement::new(known.id.clone(), statement, known.parameter_types.clone()));
        now.parameter_format = portal.parameter_format.clone();
        now.parameters.clone_from(&portal.parameters);
        now.result_column_format = portal.result_column_format.clone();
        now.state = portal.state.clone();
        let asked = ExtendedQueryHandler::do_query(&*self.inner, client, &now, max_rows);
        let response = tokio::time::timeout_at(end, asked).await.map_err(|_| Service::too_long(self.limit))??;
        Ok(Service::until(self.limit, end, response))
    }
}

fn user_error(code: &str, message: String) -> PgWireError {
    PgWireError::UserError(Box::new(ErrorInfo::new("ERROR".to_string(), code.to_string(), message)))
}

fn said(error: QueryError) -> PgWireError {
    let code = match error {
        QueryError::Sql(_) => "42000",
        QueryError::Unavailable(_) => "58030",
    };
    user_error(code, error.to_string())
}
