//! What the store promises, tried on real files.

use std::{collections::BTreeSet, time::Duration};

use lucarne_api::{Problem, bodies::ListQuery};
use lucarne_model::{
    AccountId, ErrorCode, NetworkAclId, Tags, VpcId,
    identity::{Account, Quota},
    network::{Subnet, Vpc},
    storage::Image,
};
use tempfile::TempDir;
use tokio::time::timeout;

use super::*;
use crate::random;

fn alice() -> AccountId {
    AccountId::from_bits(1)
}
fn bob() -> AccountId {
    AccountId::from_bits(2)
}

fn open() -> (Store, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (Store::open(dir.path()).unwrap(), dir)
}

fn vpc(account: AccountId, name: &str) -> Vpc {
    Vpc {
        id: random::id(),
        account,
        cidr: "10.0.0.0/16".parse().unwrap(),
        vni: 1,
        main_route_table: random::id(),
        default_network_acl: NetworkAclId::from_bits(1),
        default_security_group: random::id(),
        attest_policy: None,
        clock_behind_micros: 0,
        created: crate::clock::now(),
        tags: Tags::named(name),
    }
}

fn subnet(vpc: &Vpc) -> Subnet {
    Subnet {
        id: random::id(),
        account: vpc.account,
        vpc: vpc.id,
        cidr: "10.0.1.0/24".parse().unwrap(),
        route_table: vpc.main_route_table,
        network_acl: NetworkAclId::from_bits(1),
        available_addresses: 0,
        created: vpc.created,
        tags: Tags::default(),
    }
}

async fn insert<R: Resource + Send + 'static>(store: &Store, resource: R) -> Result<(), Problem> {
    store.write(move |tx| tx.insert(&resource)).await
}

#[tokio::test]
async fn another_accounts_resource_is_as_one_that_does_not_exist() {
    let (store, _dir) = open();
    let theirs = vpc(bob(), "theirs");
    insert(&store, theirs.clone()).await.unwrap();
    let look = move |tx: &Tx<'_>| {
        let foreign = tx.get::<Vpc>(Scope::Account(alice()), theirs.id).unwrap_err();
        let absent = tx.get::<Vpc>(Scope::Account(alice()), VpcId::from_bits(1)).unwrap_err();
        assert_eq!((foreign.code, foreign.status), (absent.code, absent.status));
        assert_eq!(
            foreign.detail.replace(&theirs.id.to_string(), ""),
            absent.detail.replace("vpc-00000000000000001", "")
        );
        assert!(tx.list::<Vpc>(Scope::Account(alice()))?.is_empty());
        assert!(tx.page::<Vpc>(Scope::Account(alice()), &ListQuery::default())?.items.is_empty());
        assert_eq!(tx.get::<Vpc>(Scope::Everything, theirs.id)?, theirs);
        Ok(())
    };
    store.read(look).await.unwrap();
}

#[tokio::test]
async fn what_is_public_is_seen_by_all_and_owned_by_one() {
    let (store, _dir) = open();
    let boot = serde_json::json!({"kind": "disk", "disk": {"digest": "0".repeat(64), "size": 1}, "format": "raw", "virtual_size": 1});
    let image = Image {
        id: random::id(),
        account: bob(),
        name: "tiny".into(),
        public: true,
        boot: serde_json::from_value(boot).unwrap(),
        minimum_memory: Default::default(),
        warm_states: Vec::new(),
        created: Default::default(),
        tags: Tags::default(),
    };
    let id = image.id;
    insert(&store, image).await.unwrap();
    let look = move |tx: &Tx<'_>| {
        assert!(tx.get::<Image>(Scope::Visible(alice()), id).is_ok());
        assert!(tx.get::<Image>(Scope::Account(alice()), id).is_err());
        Ok(())
    };
    store.read(look).await.unwrap();
}

#[tokio::test]
async fn what_is_pointed_at_is_not_deleted_and_the_refusal_names_by_whom() {
    let (store, _dir) = open();
    let vpc = vpc(alice(), "a");
    let subnet = subnet(&vpc);
    insert(&store, vpc.clone()).await.unwrap();
    insert(&store, subnet.clone()).await.unwrap();
    let refused = vpc.clone();
    let problem = store.write(move |tx| tx.delete(&refused)).await.unwrap_err();
    assert_eq!(problem.code, ErrorCode::DependencyViolation);
    assert!(problem.detail.contains(&subnet.id.to_string()), "{}", problem.detail);
    let (v, s) = (vpc.clone(), subnet.clone());
    let referring = store.read(move |tx| tx.referring::<Subnet>(Scope::Everything, v.id)).await.unwrap();
    assert_eq!(referring, [s]);
    store.write(move |tx| tx.delete(&subnet).and_then(|()| tx.delete(&vpc))).await.unwrap();
}

#[tokio::test]
async fn usage_follows_every_write_and_no_rolled_back_one() {
    let (store, _dir) = open();
    let first = vpc(alice(), "a");
    insert(&store, first.clone()).await.unwrap();
    let undone = vpc(alice(), "b");
    let fail = move |tx: &mut Tx<'_>| -> Result<(), Problem> {
        tx.insert(&undone)?;
        assert_eq!(tx.used(alice(), Item::Vpcs)?, 2);
        Err(Problem::new(ErrorCode::DryRunOperation, "no"))
    };
    store.write(fail).await.unwrap_err();
    assert_eq!(store.read(|tx| tx.used(alice(), Item::Vpcs)).await.unwrap(), 1);
    store.write(move |tx| tx.delete(&first)).await.unwrap();
    assert_eq!(store.read(|tx| tx.used(alice(), Item::Vpcs)).await.unwrap(), 0);
}

#[tokio::test]
async fn pages_neither_repeat_nor_lose_what_was_there_while_others_come_and_go() {
    let (store, _dir) = open();
    let all: Vec<Vpc> = (0..25).map(|n| vpc(alice(), &format!("v{n}"))).collect();
    for one in all.clone() {
        insert(&store, one).await.unwrap();
    }
    let (mut seen, mut page_token) = (Vec::new(), None);
    loop {
        let query = ListQuery { limit: Some(4), page_token, filter: None };
        let page = store.read(move |tx| tx.page::<Vpc>(Scope::Account(alice()), &query)).await.unwrap();
        seen.extend(page.items.iter().map(|vpc| vpc.id));
        // One that was already given goes, and another comes.
        let gone = page.items[0].clone();
        store.write(move |tx| tx.delete(&gone)).await.unwrap();
        if seen.len() < 40 {
            insert(&store, vpc(alice(), "late")).await.unwrap();
        }
        page_token = page.next;
        if page_token.is_none() {
            break;
        }
    }
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), seen.len(), "none twice");
    assert!(all.iter().all(|vpc| seen.contains(&vpc.id)), "none missing");
}

#[tokio::test]
async fn pages_are_of_what_the_filter_lets_through_and_tokens_of_their_own_list() {
    let (store, _dir) = open();
    for n in 0..10 {
        insert(&store, vpc(alice(), if n % 2 == 0 { "even" } else { "odd" })).await.unwrap();
    }
    let look = |tx: &Tx<'_>| {
        let even = ListQuery { limit: Some(3), page_token: None, filter: Some("tag:Name=ev*".into()) };
        let first = tx.page::<Vpc>(Scope::Account(alice()), &even)?;
        assert_eq!(first.items.len(), 3);
        let second = tx.page::<Vpc>(Scope::Account(alice()), &ListQuery { page_token: first.next.clone(), ..even })?;
        assert_eq!((second.items.len(), second.next), (2, None));
        for token in [first.next.unwrap(), "?".into()] {
            let query = ListQuery { page_token: Some(token), ..ListQuery::default() };
            let problem = tx.page::<Subnet>(Scope::Account(alice()), &query).unwrap_err();
            assert_eq!(problem.code, ErrorCode::InvalidPageToken);
        }
        let many = ListQuery { limit: Some(1001), ..ListQuery::default() };
        assert_eq!(tx.page::<Vpc>(Scope::Everything, &many).unwrap_err().code, ErrorCode::InvalidParameterValue);
        Ok(())
    };
    store.read(look).await.unwrap();
}

#[tokio::test]
async fn a_change_wakes_those_concerned_and_nobody_else() {
    let (store, _dir) = open();
    let (watched, other) = (vpc(alice(), "a"), vpc(alice(), "b"));
    let mut concerned = store.changes().subscribe([watched.id.to_string()]);
    let mut unconcerned = store.changes().subscribe([other.id.to_string()]);
    insert(&store, watched.clone()).await.unwrap();
    timeout(Duration::from_secs(5), concerned.changed()).await.unwrap();
    // What points at it touches it too.
    insert(&store, subnet(&watched)).await.unwrap();
    timeout(Duration::from_secs(5), concerned.changed()).await.unwrap();
    // Writing what is there already changes nothing.
    store.write(move |tx| tx.put(&watched)).await.unwrap();
    assert!(!concerned.has_changed());
    assert!(timeout(Duration::from_millis(20), unconcerned.changed()).await.is_err());
}

#[tokio::test]
async fn what_was_answered_is_there_after_a_restart_and_the_sequence_goes_on() {
    let (store, dir) = open();
    let account = Account {
        id: alice(),
        name: "alice".into(),
        quota: Quota::default(),
        created: Default::default(),
        tags: Tags::default(),
    };
    insert(&store, account.clone()).await.unwrap();
    (0..1000).for_each(|_| store.changes().touch("in memory only"));
    let before = store.changes().sequence();
    assert!(matches!(Store::open(dir.path()), Err(StoreError::InUse { .. })), "one controller at a time");
    // A kill closes nothing in order: the files are taken as they lie.
    let copy = tempfile::tempdir().unwrap();
    for file in ["lucarne.db", "lucarne.db-wal"] {
        std::fs::copy(dir.path().join(file), copy.path().join(file)).unwrap();
    }
    let again = Store::open(copy.path()).unwrap();
    assert!(again.changes().sequence() > before);
    let found = again.read(|tx| tx.get::<Account>(Scope::Everything, alice())).await.unwrap();
    assert_eq!(found, account);
}

#[tokio::test]
async fn a_write_that_panics_ends_alone() {
    let (store, _dir) = open();
    let problem = store.write(|_| -> Result<(), Problem> { panic!("as a bug would") }).await.unwrap_err();
    assert_eq!(problem.code, ErrorCode::Internal);
    insert(&store, vpc(alice(), "after")).await.unwrap();
}

/// Left to itself, SQLite walks through all instances to find those of one host: they stand in the wanted order.
#[tokio::test]
async fn what_refers_to_something_is_found_from_the_reference() {
    let (store, _dir) = open();
    let plan = store.read(|tx| tx.plan_of_referring::<Subnet>()).await.unwrap();
    assert!(plan.first().is_some_and(|step| step.contains("reference_backwards")), "{plan:?}");
}

#[tokio::test]
async fn a_write_that_is_refused_leaves_nothing_where_all_of_a_kind_are_looked_at() {
    let (store, _dir) = open();
    let names = || store.write(|tx| tx.with_all(|all: Vec<&Vpc>| all.len()));
    insert(&store, vpc(alice(), "kept")).await.unwrap();
    assert_eq!(names().await.unwrap(), 1);
    let refused = store.write(|tx| {
        tx.insert(&vpc(alice(), "refused"))?;
        assert_eq!(tx.with_all(|all: Vec<&Vpc>| all.len())?, 2);
        Err::<(), _>(Problem::new(ErrorCode::IncorrectState, "no"))
    });
    refused.await.unwrap_err();
    assert_eq!(names().await.unwrap(), 1);
    insert(&store, vpc(alice(), "second")).await.unwrap();
    assert_eq!(names().await.unwrap(), 2);
}

#[tokio::test]
async fn what_is_waited_for_is_known_to_be_unchanged_until_it_changes() {
    let (store, _dir) = open();
    let vpc = vpc(alice(), "a");
    let topic = vpc.id.to_string();
    insert(&store, vpc.clone()).await.unwrap();
    let is_unchanged = |as_of| store.changes().is_unchanged_since(&topic, as_of);
    let before = store.changes().sequence();
    assert!(!is_unchanged(before), "nobody waits for it, so nobody knows");
    let _waiting = store.changes().subscribe([topic.clone()]);
    assert!(is_unchanged(before));
    insert(&store, subnet(&vpc)).await.unwrap();
    assert!(!is_unchanged(before));
    assert!(is_unchanged(store.changes().sequence()));
}
