//! How far questions are while they are worked on.
//!
//! Owns the names of those that are, and how much of its files a plan has read: the plan's own counters say it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Instant,
};

use datafusion::{
    datasource::{physical_plan::FileScanConfig, source::DataSourceExec},
    physical_plan::ExecutionPlan,
};
use lucarne_model::flow_sql::SqlProgress;

/// The questions that have a name.
#[derive(Debug, Default)]
pub(super) struct Running(Mutex<BTreeMap<String, Arc<Question>>>);

/// A question that waits or is worked on.
#[derive(Debug)]
pub(super) struct Question {
    came: Instant,
    /// Known once it is planned, after its turn has come.
    plan: OnceLock<Arc<dyn ExecutionPlan>>,
}

/// Takes the name away when the question is over, however it ends.
#[derive(Debug)]
pub(super) struct Named<'a> {
    running: &'a Running,
    name: Option<String>,
    pub(super) question: Arc<Question>,
}

impl Running {
    /// A name that two questions have means the later one.
    pub(super) fn add(&self, name: Option<String>) -> Named<'_> {
        let question = Arc::new(Question { came: Instant::now(), plan: OnceLock::new() });
        if let Some(name) = name.clone() {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name, question.clone());
        }
        Named { running: self, name, question }
    }

    pub(super) fn progress(&self, name: &str) -> Option<SqlProgress> {
        let question = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        question.map(|question| question.progress())
    }
}

impl Drop for Named<'_> {
    fn drop(&mut self) {
        let Some(name) = &self.name else { return };
        let mut running = self.running.0.lock().unwrap_or_else(PoisonError::into_inner);
        if running.get(name).is_some_and(|question| Arc::ptr_eq(question, &self.question)) {
            running.remove(name);
        }
    }
}

impl Question {
    pub(super) fn planned(&self, plan: Arc<dyn ExecutionPlan>) {
        // A question is planned once.
        let _ = self.plan.set(plan);
    }

    #[cfg(test)]
    pub(super) fn plan(&self) -> Option<Arc<dyn ExecutionPlan>> {
        self.plan.get().cloned()
    }

    fn progress(&self) -> SqlProgress {
        let elapsed = u64::try_from(self.came.elapsed().as_millis()).unwrap_or(u64::MAX);
        let plan = self.plan.get();
        let mut progress = SqlProgress { elapsed, waits: plan.is_none(), ..SqlProgress::default() };
        if let Some(plan) = plan {
            add(plan, &mut progress);
        }
        progress
    }
}

/// Adds what the leaves of a plan have read.
fn add(plan: &Arc<dyn ExecutionPlan>, progress: &mut SqlProgress) {
    plan.children().into_iter().for_each(|child| add(child, progress));
    if !plan.children().is_empty() {
        return;
    }
    let metrics = plan.metrics().unwrap_or_default();
    progress.rows += metrics.output_rows().unwrap_or(0) as u64;
    let scan = plan.downcast_ref::<DataSourceExec>();
    if let Some(files) = scan.and_then(|scan| scan.data_source().downcast_ref::<FileScanConfig>()) {
        progress.files += files.file_groups.iter().map(|group| group.len() as u64).sum::<u64>();
        progress.files_done += metrics.sum_by_name("files_processed").map_or(0, |sum| sum.as_usize() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_known_as_long_as_its_question_lives() {
        let running = Running::default();
        assert_eq!(running.progress("mine"), None);
        let first = running.add(Some("mine".into()));
        assert!(running.progress("mine").is_some_and(|progress| progress.waits));
        let second = running.add(Some("mine".into()));
        drop(first);
        assert!(running.progress("mine").is_some(), "the later question has the name now");
        drop(second);
        assert_eq!(running.progress("mine"), None);
    }
}
