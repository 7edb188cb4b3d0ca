//! A host on paper: it does at once what it is told, and proves it with a TPM on paper.
//!
//! Owns the making of good evidence, and of evidence that is good but for one thing.

use std::sync::Mutex;

use base64::{Engine, engine::general_purpose::STANDARD};
use lucarne_attest::{
    event_log::EventLog,
    measure,
    pcr::{self, Values},
    qualifying::Purpose,
    wire::{Attest, Clock, HashAlgorithm, MAGIC, Signature, Wire as _},
};
use lucarne_model::{
    Component, Evidence, InstanceId, Measurement, Octets,
    storage::Digest,
    tpm::{ChallengeAnswer, DesiredChallenge},
};
use reqwest::Method;
use ring::{
    digest::{SHA256, digest},
    rand::SystemRandom,
    signature::{EcdsaKeyPair, KeyPair as _},
};
use serde_json::{Value, json};

use super::{
    Cloud,
    chip::{Chip, Maker, new_key, public_of},
};

/// What is wrong with a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Forgery {
    /// It was made for another host's key.
    OtherHost,
    Signature,
    /// The nonce that is told is the right one; another was signed.
    OtherNonceSigned,
    OtherValues,
    MissingEvent,
    OtherGuest,
}

pub(in crate::tests) struct Machine {
    pub(in crate::tests) id: String,
    key: String,
    /// As it enrolled.
    description: Value,
    tls: EcdsaKeyPair,
    pub(in crate::tests) tpm: Chip,
    software: Vec<Measurement>,
    forgery: Option<Forgery>,
    version: Mutex<u64>,
}

fn measurement(component: Component, name: &str, content: u8) -> Measurement {
    Measurement { component, name: name.into(), digest: Digest::from_bytes([content; 32]) }
}

impl Machine {
    /// A host that has proved its TPM, of a maker that the operator trusts.
    pub(in crate::tests) async fn enrol(cloud: &Cloud) -> Self {
        let maker = Maker::new();
        let machine = Self::with_tpm(cloud, "k", Chip::new(7, Some(&maker))).await;
        let trust = json!({"name": "Paper", "certificate": maker.root});
        assert_eq!(cloud.post(&cloud.operator().await, "/v1/tpm-makers", trust).await.0, 201);
        assert_eq!(machine.present(cloud).await.0, 204);
        machine.turn(cloud).await;
        assert!(machine.shown(cloud).await["tpm"]["proved"].is_u64(), "{}", machine.shown(cloud).await);
        machine
    }

    /// One that has said nothing of its TPM yet.
    pub(in crate::tests) async fn with_tpm(cloud: &Cloud, public_key: &str, tpm: Chip) -> Self {
        let tls = new_key();
        let capacity = json!({"vcpus": 16, "memory": 1_u64 << 30, "disk": 1 << 30});
        let description = json!({"name": "h", "address": "127.0.0.1", "tunnel_port": 1, "public_key": public_key,
            "export_key": STANDARD.encode(tls.public_key().as_ref()), "capacity": capacity, "hypervisor": "paper"});
        let body = json!({"join_token": cloud.operator.join_token, "host": &description});
        let (status, enrolled) = cloud.send(cloud.request(Method::POST, "/v1/host/enrol", "").json(&body)).await;
        assert_eq!(status, 201, "{enrolled}");
        let text = |field: &str| enrolled[field].as_str().unwrap().to_owned();
        let software = vec![
            measurement(Component::Hypervisor, "qemu-system-x86_64", 1),
            measurement(Component::Agent, "lucarne", 2),
        ];
        let (id, key) = (text("host"), text("host_key"));
        Self { id, key, description, tls, tpm, software, forgery: None, version: Mutex::new(0) }
    }

    /// What operators are shown of it.
    pub(in crate::tests) async fn shown(&self, cloud: &Cloud) -> Value {
        cloud.get(&cloud.operator().await, &format!("/v1/hosts/{}", self.id)).await.1
    }

    pub(in crate::tests) async fn present(&self, cloud: &Cloud) -> (u16, Value) {
        self.say(cloud, "/v1/host/tpm", &serde_json::to_value(self.tpm.presented()).unwrap()).await
    }

    pub(in crate::tests) async fn challenges(&self, cloud: &Cloud) -> Vec<DesiredChallenge> {
        serde_json::from_value(self.desired(cloud).await["challenges"].clone()).unwrap()
    }

    pub(in crate::tests) async fn answer(
        &self,
        cloud: &Cloud,
        challenge: &DesiredChallenge,
        answer: &ChallengeAnswer,
    ) -> (u16, Value) {
        let path = format!("/v1/host/challenges/{}", challenge.token);
        self.say(cloud, &path, &serde_json::to_value(answer).unwrap()).await
    }

    /// What its TPM makes of a challenge.
    pub(in crate::tests) fn opens(&self, challenge: &DesiredChallenge) -> ChallengeAnswer {
        self.tpm.answer(challenge, &fingerprint(&self.tls))
    }

    async fn say(&self, cloud: &Cloud, path: &str, body: &Value) -> (u16, Value) {
        cloud.send(cloud.request(Method::POST, path, &self.key).json(body)).await
    }

    /// One byte of a component is another from now on.
    pub(super) fn changes(&mut self, component: Component) {
        let changed = self.software.iter_mut().find(|one| one.component == component).unwrap();
        let mut bytes = changed.digest.to_bytes();
        bytes[31] ^= 1;
        changed.digest = Digest::from_bytes(bytes);
    }

    /// Its attestation key is another one by now, which it has not proved.
    pub(super) fn changes_key(&mut self) {
        self.tpm.attestation = new_key();
    }

    pub(super) fn software(&self) -> &[Measurement] {
        &self.software
    }

    /// Its agent says hello as after a start. There is no collector that it could be told of.
    pub(super) async fn begins_anew(&self, cloud: &Cloud) {
        let mut description = self.description.clone();
        description["started"] = json!(crate::clock::now());
        let (status, answer) =
            cloud.send(cloud.request(Method::POST, "/v1/host/hello", &self.key).json(&description)).await;
        assert_eq!(status, 503, "{answer}");
    }

    pub(super) fn forge(&mut self, forgery: Option<Forgery>) {
        self.forgery = forgery;
    }

    async fn desired(&self, cloud: &Cloud) -> Value {
        let (status, answer) = cloud.send(cloud.request(Method::GET, "/v1/host/desired", &self.key)).await;
        assert_eq!(status, 200, "{answer}");
        answer["desired"].clone()
    }

    /// Whether any interface is part of a network that this host is told of.
    pub(super) async fn joins(&self, cloud: &Cloud) -> bool {
        let desired = self.desired(cloud).await;
        let networks = desired["networks"].as_array().unwrap();
        networks.iter().any(|network| !network["endpoints"].as_array().unwrap().is_empty())
    }

    /// Is what it is told to be, and says so.
    pub(in crate::tests) async fn turn(&self, cloud: &Cloud) {
        for challenge in self.challenges(cloud).await {
            self.answer(cloud, &challenge, &self.opens(&challenge)).await;
        }
        let desired = self.desired(cloud).await;
        let instances: Vec<_> = desired["instances"].as_array().unwrap().iter().map(|one| self.actual(one)).collect();
        let version = {
            let mut version = self.version.lock().unwrap();
            *version += 1;
            *version
        };
        let capacity = json!({"vcpus": 16, "memory": 1_u64 << 30, "disk": 1 << 30});
        let report = json!({"version": version, "capacity": capacity, "instances": instances, "volumes": [],
            "snapshots": [], "dropped_frames": {}});
        let sent = self.say(cloud, "/v1/host/report", &report).await;
        assert_eq!(sent.0, 204, "{sent:?}");
    }

    fn actual(&self, wanted: &Value) -> Value {
        let asked = &wanted["attestation"];
        let state = match (wanted["power"].as_str(), asked["begin"].as_bool()) {
            (Some("running"), Some(false)) => "held",
            (Some("running"), _) => "running",
            (Some("absent"), _) => "absent",
            _ => "stopped",
        };
        let id: InstanceId = serde_json::from_value(wanted["id"].clone()).unwrap();
        let generation = wanted["generation"].as_u64().unwrap();
        let evidence = (state != "absent" && asked["heard"] == false).then(|| {
            let nonce: Octets = serde_json::from_value(asked["nonce"].clone()).unwrap();
            serde_json::to_value(self.prove(id, generation, &nonce)).unwrap()
        });
        json!({"id": id, "generation": generation, "state": state, "reason": null, "volumes": [], "evidence": evidence})
    }

    fn prove(&self, instance: InstanceId, generation: u64, nonce: &Octets) -> Evidence {
        let (mut log, mut values) = (EventLog::new(), Values::default());
        pcr::QUOTED.into_iter().for_each(|register| values.set(register, [0; 32]));
        for one in &self.software {
            let register = pcr::of(one.component);
            let event = measure::event(one, register).unwrap();
            values.extend(register, event.extends().unwrap());
            log.events.push(event);
        }
        let guest = measure::describe_guest(vec![measurement(Component::GuestKernel, "kernel", 7)]).unwrap();
        values.set(pcr::GUEST, measure::guest_register(&guest));
        let other_key = new_key();
        let host_key = fingerprint(if self.is(Forgery::OtherHost) { &other_key } else { &self.tls });
        let other = Octets(vec![9; 16]);
        let signed = if self.is(Forgery::OtherNonceSigned) { &other } else { nonce };
        let purpose = Purpose { nonce: signed, host_key: &host_key, instance, generation };
        let selections = pcr::quoted();
        let attest = Attest {
            magic: MAGIC,
            signer: vec![0; 34],
            qualifying: purpose.qualifying_data().to_vec(),
            clock: Clock { milliseconds: 5, resets: 1, restarts: 0, safe: true },
            firmware: 1,
            pcr_digest: pcr::digest_of(&selections, &values, HashAlgorithm::Sha256).unwrap(),
            selections,
        };
        let quote = attest.to_octets();
        let (signature, ak_public) = self.sign(&quote);
        if self.is(Forgery::OtherValues) {
            values.set(pcr::AGENT, [1; 32]);
        }
        if self.is(Forgery::MissingEvent) {
            log.events.pop();
        }
        let other_guest = || measure::describe_guest(vec![measurement(Component::GuestKernel, "kernel", 8)]).unwrap();
        let guest = if self.is(Forgery::OtherGuest) { other_guest() } else { guest };
        Evidence {
            instance,
            generation,
            nonce: nonce.clone(),
            host_key,
            quote: quote.into(),
            signature: signature.into(),
            pcrs: values.to_evidence(),
            event_log: log.to_octets().into(),
            ak_public: ak_public.into(),
            ek_certificates: Vec::new(),
            credential: None,
            guest: Some(guest.into()),
        }
    }

    fn is(&self, forgery: Forgery) -> bool {
        self.forgery == Some(forgery)
    }

    /// The signature, and the public half of the key that made it.
    fn sign(&self, message: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let message = if self.is(Forgery::Signature) { b"something else".as_slice() } else { message };
        let made = self.tpm.attestation.sign(&SystemRandom::new(), message).unwrap();
        let (r, s) = made.as_ref().split_at(32);
        let signature = Signature::Ecdsa { hash: HashAlgorithm::Sha256, r: r.to_vec(), s: s.to_vec() };
        (signature.to_octets(), self.tpm.attestation_public().to_octets())
    }
}

fn fingerprint(pair: &EcdsaKeyPair) -> Digest {
    let der = lucarne_attest::spki::write(&public_of(pair)).unwrap();
    Digest::from_bytes(digest(&SHA256, &der).as_ref().try_into().unwrap())
}
