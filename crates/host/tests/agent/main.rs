//! The agent as a whole, with simulated VMs and a controller in memory.
#![allow(clippy::unwrap_used)]

mod bed;

use std::{sync::atomic::Ordering, time::Duration};

use futures::StreamExt;
use lucarne_api::bodies::host::HostSettings;
use lucarne_host::AtEnd;
use lucarne_model::{
    Bytes, ErrorCode, InstanceId, Octets, SnapshotId, VolumeId,
    actual::{ActualState, Report},
    desired::{
        DesiredAttestation, DesiredInstance, DesiredSnapshot, DesiredVolume, Power, StreamKind, StreamRequest,
        VolumeContent,
    },
    instance::Attachment,
    tpm::{ChallengeAnswer, DesiredChallenge, PresentedTpm},
};
use lucarne_vmm::{driver::EndOfMachine, simulated::Fault};

use bed::{Bed, put};

fn id(n: u128) -> InstanceId {
    InstanceId::from_bits(n)
}

#[tokio::test]
async fn an_instance_runs_behind_its_port_and_is_gone_when_it_is_to_be_absent() {
    let mut bed = Bed::start().await;
    bed.launch(1).await;
    assert_eq!((bed.driver.running(), bed.ports()), (1, vec![id(1)]));

    let absent = bed.instance(1, Power::Absent, 1);
    bed.controller.wish(|desired| put(desired, absent));
    bed.controller.reaches(1, ActualState::Absent).await;
    assert_eq!(bed.driver.running(), 0);
    let version = bed.controller.version();
    bed.controller.reported("the version", |report| report.version == version).await;
    bed.controller.wish(|desired| desired.instances.clear());
    let report = bed.controller.reported("nothing left", |report| report.instances.is_empty()).await;
    assert_eq!(report.dropped_frames["truncated"], 7);
    bed.has_ports(&[]).await;
    bed.end().await;
}

#[tokio::test]
async fn a_start_that_failed_is_told_with_its_reason_and_not_repeated_before_the_next_generation() {
    let mut bed = Bed::start().await;
    bed.driver.inject(Fault::StartFails { said: "no such machine".into() });
    let wanted = bed.instance(1, Power::Running, 1);
    bed.controller.wish(|desired| put(desired, wanted));
    let failed = bed.controller.reaches(1, ActualState::Failed).await;
    let reason = failed.reason.unwrap();
    assert_eq!(reason.code, ErrorCode::HypervisorFailed);
    assert!(reason.message.contains("no such machine"), "{}", reason.message);

    // Neither a new version nor a new agent tries it again.
    bed.controller.wish(|_| {});
    let version = bed.controller.version();
    bed.controller.reported("the version", |report| report.version == version).await;
    bed.end().await;
    bed.begin(AtEnd::LeaveMachines).await.unwrap();
    bed.controller.reaches(1, ActualState::Failed).await;
    assert_eq!(bed.driver.running(), 0);

    let next = bed.instance(1, Power::Running, 2);
    bed.controller.wish(|desired| put(desired, next));
    assert_eq!(bed.controller.reaches(1, ActualState::Running).await.generation, 2);
    bed.end().await;
}

#[tokio::test]
async fn a_new_agent_adopts_the_vms_that_run() {
    let mut bed = Bed::start().await;
    bed.launch(1).await;
    bed.launch(2).await;
    bed.end().await;
    bed.controller.states_seen.lock().unwrap().clear();
    bed.begin(AtEnd::LeaveMachines).await.unwrap();
    bed.controller.reaches(1, ActualState::Running).await;
    bed.controller.reaches(2, ActualState::Running).await;
    let seen = bed.controller.states_seen.lock().unwrap().clone();
    assert!(seen.iter().all(|(_, state)| *state == ActualState::Running), "they were started anew: {seen:?}");
    bed.has_ports(&[id(1), id(2)]).await;
    assert_eq!(bed.driver.running(), 2);
    bed.end().await;
}

#[tokio::test]
async fn without_a_controller_vms_and_their_network_live_on_even_through_a_restart() {
    let mut bed = Bed::start().await;
    bed.launch(1).await;
    bed.controller.set_away(true);
    bed.end().await;
    bed.begin(AtEnd::LeaveMachines).await.unwrap();
    bed.has_ports(&[id(1)]).await;
    assert_eq!(bed.driver.running(), 1);

    let absent = bed.instance(1, Power::Absent, 1);
    bed.controller.wish(|desired| put(desired, absent));
    bed.controller.set_away(false);
    bed.controller.reaches(1, ActualState::Absent).await;
    bed.end().await;
}

#[tokio::test]
async fn vms_that_end_with_the_agent_start_again_with_it() {
    let mut bed = Bed::start().await;
    bed.launch(1).await;
    bed.end().await;
    bed.begin(AtEnd::StopMachines).await.unwrap();
    bed.controller.reaches(1, ActualState::Running).await;
    bed.end().await;
    assert_eq!(bed.driver.running(), 0);
    bed.begin(AtEnd::LeaveMachines).await.unwrap();
    let version = bed.controller.version();
    bed.controller
        .reported("running again", |report| {
            report.version == version && report.instances.iter().all(|actual| actual.state == ActualState::Running)
        })
        .await;
    bed.end().await;
}

#[tokio::test]
async fn a_full_disk_fails_the_volume_and_its_instance_with_that_reason() {
    let mut bed = Bed::start().await;
    bed.driver.inject(Fault::DiskFull);
    let volume = VolumeId::from_bits(1);
    let mut wanted = bed.instance(1, Power::Running, 1);
    wanted.volumes = vec![Attachment { volume, slot: 0 }];
    bed.controller.wish(|desired| {
        put(desired, wanted);
        desired.volumes =
            vec![DesiredVolume { id: volume, size: Bytes::gib(1), content: VolumeContent::Empty, present: true }];
    });
    let failed = bed.controller.reaches(1, ActualState::Failed).await;
    assert_eq!(failed.reason.unwrap().code, ErrorCode::DiskFull);
    bed.end().await;
}

#[tokio::test]
async fn a_damaged_blob_is_fetched_again_and_never_kept() {
    let mut bed = Bed::start().await;
    bed.controller.damaged.store(1, Ordering::SeqCst);
    bed.launch(1).await;
    for entry in std::fs::read_dir(bed.state_file("blobs")).unwrap() {
        let entry = entry.unwrap();
        let digest = bed::blob_of(&std::fs::read(entry.path()).unwrap()).digest;
        assert_eq!(entry.file_name().to_str().unwrap(), digest.as_str());
    }
    bed.end().await;
}

#[tokio::test]
async fn of_two_wishes_in_quick_succession_the_second_holds() {
    let mut bed = Bed::start().await;
    bed.driver.inject(Fault::StartIsSlow { by: Duration::from_millis(300) });
    for power in [Power::Running, Power::Absent] {
        let wanted = bed.instance(1, power, 1);
        bed.controller.wish(|desired| put(desired, wanted));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bed.controller.reaches(1, ActualState::Absent).await;
    assert_eq!(bed.driver.running(), 0);
    bed.end().await;
}

#[tokio::test]
async fn a_slow_vm_does_not_hold_the_others() {
    let mut bed = Bed::start().await;
    bed.driver.inject(Fault::StartIsSlow { by: Duration::from_secs(60) });
    let slow = bed.instance(1, Power::Running, 1);
    bed.controller.wish(|desired| put(desired, slow));
    bed.controller.reaches(1, ActualState::Preparing).await;
    bed.launch(2).await;
    bed.controller.reaches(1, ActualState::Preparing).await;
    bed.end().await;
}

#[tokio::test]
async fn a_guest_that_shuts_itself_down_is_stopped_and_stays_so() {
    let mut bed = Bed::start().await;
    bed.launch(1).await;
    bed.driver.end(id(1), EndOfMachine::GuestShutdown).await.unwrap();
    let stopped = bed.controller.reaches(1, ActualState::Stopped).await;
    assert_eq!((stopped.generation, stopped.reason), (1, None));
    bed.end().await;
}

#[tokio::test]
async fn disks_come_and_go_while_the_vm_runs_and_snapshots_are_uploaded() {
    let mut bed = Bed::start().await;
    bed.launch(1).await;
    let (volume, snapshot) = (VolumeId::from_bits(7), SnapshotId::from_bits(8));
    let attachment = Attachment { volume, slot: 1 };
    bed.controller.wish(|desired| {
        desired.instances[0].volumes = vec![attachment];
        desired.volumes =
            vec![DesiredVolume { id: volume, size: Bytes::gib(1), content: VolumeContent::Empty, present: true }];
        desired.snapshots = vec![DesiredSnapshot { id: snapshot, volume }];
    });
    let report = bed.controller.reported("attached and snapshot", |report| {
        report.instances[0].volumes == [attachment] && report.snapshots.iter().any(|one| one.blob.is_some())
    });
    assert!(report.await.volumes[0].present);
    bed.controller.wish(|desired| {
        desired.instances[0].volumes.clear();
        desired.volumes[0].present = false;
        desired.snapshots.clear();
    });
    let gone = bed.controller.reported("all gone", |report| {
        report.instances[0].volumes.is_empty() && !report.volumes[0].present && report.snapshots.is_empty()
    });
    gone.await;
    assert_eq!(std::fs::read_dir(bed.state_file("volumes")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(bed.state_file("snapshots")).unwrap().count(), 0);
    bed.end().await;
}

#[tokio::test]
async fn a_log_is_streamed_once_to_who_waits_for_it() {
    let mut bed = Bed::start().await;
    bed.launch(1).await;
    let request = StreamRequest { token: "hard-to-guess".into(), instance: id(1), kind: StreamKind::Log };
    bed.controller.wish(|desired| desired.streams = vec![request]);
    bed.controller.wish(|_| {});
    let version = bed.controller.version();
    bed.controller.reported("the version", |report| report.version == version).await;
    let opened = async {
        loop {
            if let Some(stream) = bed.controller.streams.lock().unwrap().pop() {
                return stream;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let (token, seen) = tokio::time::timeout(Duration::from_secs(10), opened).await.unwrap();
    let log: Vec<_> = seen.collect::<Vec<_>>().await.concat();
    assert_eq!((token.as_str(), log.as_slice()), ("hard-to-guess", lucarne_vmm::simulated::BANNER.as_bytes()));
    assert!(bed.controller.streams.lock().unwrap().is_empty(), "it was opened twice");
    bed.end().await;
}

#[tokio::test]
async fn an_agent_that_is_asked_to_say_hello_again_hears_where_the_collector_is_now() {
    let mut bed = Bed::start().await;
    let mut settings = bed.agent().settings();
    let told =
        |port: u16| move |told: &Option<HostSettings>| told.as_ref().is_some_and(|told| told.collector.port() == port);
    settings.wait_for(told(1)).await.unwrap();
    bed.controller.collector_port.store(2, Ordering::SeqCst);
    // Also through a time without a controller.
    bed.controller.set_away(true);
    bed.agent().hello_again().notify_one();
    tokio::time::sleep(Duration::from_millis(50)).await;
    bed.controller.set_away(false);
    tokio::time::timeout(Duration::from_secs(20), settings.wait_for(told(2))).await.unwrap().unwrap();
    bed.end().await;
}

/// The agent ends while it holds a VM, and so does the next one: the VM is found held, what it was measured as is what it
/// was, and the proof is there again.
#[tokio::test]
async fn a_held_vm_is_held_through_any_number_of_agents_and_begins_when_that_is_said() {
    let mut bed = Bed::start().await;
    let asked = DesiredAttestation { nonce: Octets(vec![5; 16]), begin: false, heard: false };
    let wanted = DesiredInstance { attestation: Some(asked.clone()), ..bed.instance(1, Power::Running, 1) };
    bed.controller.wish(|desired| put(desired, wanted.clone()));
    let proved = |report: &Report| report.instances.iter().find_map(|actual| actual.evidence.clone());
    let first = bed.controller.reported("the proof", |report| proved(report).is_some()).await;
    let first = proved(&first).unwrap();
    assert_eq!(first.nonce, asked.nonce);
    for _ in 0..2 {
        bed.end().await;
        bed.controller.forget_reports();
        bed.begin(AtEnd::LeaveMachines).await.unwrap();
        let again = bed.controller.reported("the proof again", |report| proved(report).is_some()).await;
        assert_eq!(again.instances[0].state, ActualState::Held);
        assert_eq!(proved(&again), Some(first.clone()));
    }
    let begin = DesiredAttestation { begin: true, heard: true, ..asked };
    bed.controller.wish(|desired| put(desired, DesiredInstance { attestation: Some(begin), ..wanted }));
    let runs = bed.controller.reaches(1, ActualState::Running).await;
    assert_eq!(runs.evidence, None);
    bed.end().await;
}

/// A controller that was away, or an answer that came too late, is no reason to open a credential twice.
#[tokio::test]
async fn the_tpm_is_presented_and_each_challenge_answered_once_with_what_became_of_it() {
    let mut bed = Bed::start().await;
    let challenge = |token: &str, secret: &[u8]| DesiredChallenge {
        token: token.into(),
        credential_blob: Octets(vec![1]),
        encrypted_secret: secret.into(),
    };
    let mut answers = bed.controller.answers.subscribe();
    bed.controller.wish(|desired| desired.challenges = vec![challenge("a", b"opened"), challenge("b", b"")]);
    bed.controller.wish(|desired| desired.challenges.push(challenge("c", b"later")));
    let all = answers.wait_for(|answers| answers.len() == 3);
    let all = tokio::time::timeout(Duration::from_secs(20), all).await.unwrap().unwrap().clone();
    let opened = |answer: &[u8]| ChallengeAnswer::Opened { answer: answer.into() };
    assert_eq!(all[0], ("a".to_owned(), opened(b"opened")));
    assert!(matches!(&all[1].1, ChallengeAnswer::Failed { reason } if reason.code == ErrorCode::CredentialMismatch));
    assert_eq!(all[2], ("c".to_owned(), opened(b"later")));
    let presented = bed.controller.presented.lock().unwrap().clone();
    assert!(matches!(presented.as_slice(), [PresentedTpm::Software(_)]), "{presented:?}");
    bed.end().await;
    assert_eq!(answers.borrow().len(), 3);
}
