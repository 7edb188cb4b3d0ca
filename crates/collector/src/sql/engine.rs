//! DataFusion as the [`FlowStore`]: plans a question, runs it, and stops it where it costs too much.
//!
//! Owns the threads that questions run on, which are not those that take records, and the bounds of each: time, memory,
//! octets, and how many run at once. Nothing is written to disk for a question, and no file can be named by one: there are
//! only the tables that are registered here, no functions that stand for tables, and no formats.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use datafusion::{
    common::tree_node::{Transformed, TransformedResult as _, TreeNode as _},
    error::DataFusionError,
    execution::{
        SendableRecordBatchStream, SessionStateBuilder, SessionStateDefaults,
        cache::{
            cache_manager::{CacheManagerConfig, FileMetadataCache},
            default_cache::DefaultCache,
        },
        context::SQLOptions,
        disk_manager::{DiskManagerBuilder, DiskManagerMode},
        memory_pool::GreedyMemoryPool,
        runtime_env::{RuntimeEnv, RuntimeEnvBuilder},
    },
    object_store::local::LocalFileSystem,
    physical_plan::{ExecutionPlan, coop::CooperativeExec, execute_stream},
    prelude::{SessionConfig, SessionContext},
    sql::parser::Statement,
};
use lucarne_model::{
    AccountId,
    flow_sql::{SqlProgress, SqlQuestion, SqlTable},
};
use tokio::{runtime::Runtime, time::timeout};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Answer, FlowStore, Limits, SqlError,
    bounded::{self, Joins, Share},
    foreign_table::{self, ForeignTable},
    lopsided_table::{self, LopsidedTable},
    part_files::PartFiles,
    progress::{Question, Running},
    rows, statement,
    sums_table::SumsTable,
    table::{self, FlowsTable},
    turns::Turns,
};
use crate::{
    catalog::Catalog,
    columns,
    foreign::{self, Foreign},
    part::{Folders, sums},
};

/// Into how many streams a question is divided.
pub(super) const PARTITIONS: usize = 2;
/// Octets of what files say of themselves that is kept from one question to the next: some 300 KB of a part with a million records.
const FOOTERS: usize = 48 << 20;
/// Octets of stack of a thread that plans: expressions nest as deep as the text allows.
const STACK: usize = 8 << 20;

/// Why the engine could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("no threads for questions in SQL")]
    Threads(#[source] io::Error),
    #[error("the folder {} of parts cannot be opened", path.display())]
    Folder { path: PathBuf, source: DataFusionError },
}

/// DataFusion over the catalog and the folder of parts.
pub(crate) struct Engine {
    /// Taken when it ends.
    runtime: Option<Runtime>,
    parts: Arc<PartFiles>,
    /// Of parts, which stay as they are under their names.
    footers: Arc<FileMetadataCache>,
    foreign_files: Arc<LocalFileSystem>,
    catalog: Arc<Catalog>,
    foreign: Arc<Foreign>,
    turns: Turns,
    running: Running,
    limits: Limits,
}

impl Engine {
    pub(crate) fn start(
        folders: &Folders,
        catalog: Arc<Catalog>,
        foreign: Arc<Foreign>,
        limits: Limits,
    ) -> Result<Self, EngineError> {
        let parts = folder(&folders.shown)?;
        let parts = Arc::new(PartFiles::new(parts, folders));
        let foreign_files = folder(foreign.dir())?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(limits.at_once)
            .thread_name("sql")
            .thread_stack_size(STACK)
            .enable_all()
            .build()
            .map_err(EngineError::Threads)?;
        let (turns, running) = (Turns::new(limits), Running::default());
        let footers = Arc::new(DefaultCache::new(FOOTERS));
        Ok(Self { runtime: Some(runtime), parts, footers, foreign_files, catalog, foreign, turns, running, limits })
    }

    /// A session for one question, whose tables are `flows`, `flow_sums` and `lopsided_flows`, and for the operator `foreign_flows` too.
    pub(super) fn session(&self, account: Option<AccountId>, share: &Share) -> Result<SessionContext, DataFusionError> {
        let mut config = SessionConfig::new()
            .with_target_partitions(PARTITIONS)
            .with_information_schema(false)
            .with_parquet_pruning(true)
            .with_parquet_page_index_pruning(true)
            .with_parquet_bloom_filter_pruning(true);
        // Answers are read by people and by JSON: plain text, not a view of it.
        config.options_mut().execution.parquet.schema_force_view_types = false;
        config.options_mut().execution.enable_recursive_ctes = false;
        let functions = bounded::functions(SessionStateDefaults::default_scalar_functions(), share);
        let mut planners = SessionStateDefaults::default_expr_planners();
        planners.insert(0, Arc::new(Joins::new(share)));
        let state = SessionStateBuilder::new()
            .with_config(config)
            .with_runtime_env(self.environment()?)
            .with_expr_planners(planners)
            .with_scalar_functions(functions)
            .with_aggregate_functions(SessionStateDefaults::default_aggregate_functions())
            .with_window_functions(SessionStateDefaults::default_window_functions())
            .build();
        let context = SessionContext::new_with_state(state);
        let flows = Arc::new(FlowsTable::new(account, self.catalog.everything(account)));
        context.register_table("flows", flows.clone())?;
        context.register_table("flow_sums", Arc::new(SumsTable(flows.clone())))?;
        context.register_table("lopsided_flows", Arc::new(LopsidedTable { flows, memory: self.limits.memory }))?;
        if account.is_none() {
            context.register_table("foreign_flows", Arc::new(ForeignTable(self.foreign.snapshot())))?;
        }
        Ok(context)
    }

    /// The bounds of one question's memory, and the only places where it finds files.
    fn environment(&self) -> Result<Arc<RuntimeEnv>, DataFusionError> {
        let environment = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(GreedyMemoryPool::new(self.limits.memory)))
            .with_cache_manager(
                CacheManagerConfig::default()
                    .with_file_metadata_cache(Some(self.footers.clone()))
                    .with_metadata_cache_limit(FOOTERS),
            )
            .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled))
            .build_arc()?;
        let files = datafusion::execution::object_store::ObjectStoreUrl::local_filesystem();
        // The default of the engine reaches every file of the machine.
        environment.deregister_object_store(files.as_ref())?;
        environment.register_object_store(table::parts_url()?.as_ref(), self.parts.clone());
        environment.register_object_store(foreign_table::url()?.as_ref(), self.foreign_files.clone());
        Ok(environment)
    }
}

/// A folder as the engine reads it, and nothing above it.
fn folder(path: &Path) -> Result<Arc<LocalFileSystem>, EngineError> {
    let folder = LocalFileSystem::new_with_prefix(path);
    folder.map(Arc::new).map_err(|error| EngineError::Folder { path: path.to_owned(), source: error.into() })
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Questions that still run must not hold up the collector's end.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("limits", &self.limits).finish_non_exhaustive()
    }
}

#[async_trait]
impl FlowStore for Engine {
    fn tables(&self, account: Option<AccountId>) -> Vec<SqlTable> {
        let table = |name: &str, schema| SqlTable { name: name.to_owned(), columns: rows::columns(&schema) };
        let flows = table("flows", columns::schema(table::columns_of(account)));
        let sums = table("flow_sums", sums::schema());
        let lopsided = table("lopsided_flows", lopsided_table::schema());
        let foreign = account.is_none().then(|| table("foreign_flows", foreign::schema()));
        [Some(flows), Some(sums), Some(lopsided), foreign].into_iter().flatten().collect()
    }

    fn progress(&self, name: &str) -> Option<SqlProgress> {
        self.running.progress(name)
    }

    async fn ask(&self, question: &SqlQuestion) -> Result<Answer, SqlError> {
        let statement = statement::one_select(&question.sql)?;
        let named = self.running.add(question.progress.clone());
        let _turn = self.turns.take(question.account).await?;
        let share = Share::of(self.limits.memory);
        let session = self.session(question.account, &share).map_err(SqlError::Store)?;
        let (limits, most, format, running) = (self.limits, question.rows(), question.format, named.question.clone());
        let work = async move {
            let stream = start(&session, statement, most, limits, &share, &running).await?;
            rows::write(stream, format, most, limits).await
        };
        let runtime = self.runtime.as_ref().ok_or(SqlError::Stopped)?;
        // Aborted when the caller goes away or the time is over: soon after, for all steps give way between batches.
        let work = AbortOnDropHandle::new(runtime.spawn(work));
        match timeout(limits.time, work).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(stopped)) => {
                tracing::error!(error = %stopped, "a question in SQL was stopped");
                Err(SqlError::Stopped)
            }
            Err(_) => Err(SqlError::TooSlow { limit: limits.time }),
        }
    }
}

/// Plans a question and starts it; one row more than wanted is asked for, to know whether there are more.
pub(super) async fn start(
    session: &SessionContext,
    statement: Statement,
    most: usize,
    limits: Limits,
    share: &Share,
    running: &Question,
) -> Result<SendableRecordBatchStream, SqlError> {
    let plan = session.state().statement_to_plan(statement).await.map_err(SqlError::of_planning)?;
    let only_select = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    only_select.verify_plan(&plan).map_err(|error| SqlError::NotAllowed(error.strip_backtrace()))?;
    let plan = share.bound(plan).map_err(SqlError::of_planning)?;
    share.divide(&plan).map_err(SqlError::of_planning)?;
    let frame = session.execute_logical_plan(plan).await.map_err(SqlError::of_planning)?;
    let frame = frame.limit(0, Some(most + 1)).map_err(SqlError::of_planning)?;
    let task = Arc::new(frame.task_ctx());
    let plan = frame.create_physical_plan().await.map_err(SqlError::of_planning)?;
    let plan = giving_way(plan).map_err(SqlError::of_planning)?;
    running.planned(plan.clone());
    execute_stream(plan, task).map_err(|error| SqlError::of_execution(error, limits.memory))
}

/// The plan with joins that give way to others between batches, and so can be stopped there. The engine sees to that for
/// what reads, but a join makes far more batches than it reads.
fn giving_way(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
    let wrap = |step: Arc<dyn ExecutionPlan>| {
        let joins = step.children().len() == 2 && step.name().contains("Join");
        Ok(if joins { Transformed::yes(Arc::new(CooperativeExec::new(step)) as _) } else { Transformed::no(step) })
    };
    plan.transform_up(wrap).data()
}
