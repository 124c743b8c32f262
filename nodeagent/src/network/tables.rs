//! Our nftables tables: what was written last, and how each is brought up to date.
//!
//! A table is written where its text changed. Whether it is still there is looked at now and then only: that takes a
//! process of its own.

use std::collections::BTreeMap;

use super::cidr::Cidr;
use super::nft;
use super::service::backends::Target;
use super::service::conntrack;
use super::service::plan::Plan;
use super::service::text::{self, Names};

/// The tables of one node.
#[derive(Debug, Default)]
pub struct Tables {
    /// By name.
    written: BTreeMap<String, String>,
    /// What the Services' table has; `None` where that is to be asked for.
    present: Option<Names>,
    /// The UDP part of the Services that stale flows were last looked for with.
    flows: Option<Flows>,
}

type Flows = (BTreeMap<Target, std::collections::BTreeSet<Target>>, BTreeMap<u16, std::collections::BTreeSet<Target>>);

impl Tables {
    /// Makes the table be `text`, which replaces it as a whole; `None`: makes it be gone. `chain` is one that it has.
    pub async fn replace(&mut self, table: &str, chain: &str, text: Option<String>, look: bool) -> Result<(), String> {
        let wanted = text.unwrap_or_default();
        let as_written = self.written.get(table) == Some(&wanted);
        if as_written && (!look || wanted.is_empty() || nft::is_there(table, chain).await) {
            return Ok(());
        }
        if wanted.is_empty() {
            nft::delete(table).await?;
        } else {
            nft::apply(&wanted).await?;
        }
        self.written.insert(table.to_owned(), wanted);
        Ok(())
    }

    /// Makes the table say what the plan says. Clients stay with their endpoints, as far as these stay.
    pub async fn serve(&mut self, table: &str, plan: &Plan, cluster: Cidr, look: bool) -> Result<(), String> {
        let wanted = text::replacement(table, plan, cluster);
        let as_written = self.written.get(table) == Some(&wanted);
        if !as_written || (look && !nft::is_there(table, "postrouting").await) {
            self.write_services(table, plan, cluster, &wanted).await?;
            self.written.insert(table.to_owned(), wanted);
        }
        self.forget_flows(plan).await;
        Ok(())
    }

    async fn write_services(&mut self, table: &str, plan: &Plan, cluster: Cidr, whole: &str) -> Result<(), String> {
        // Until the write has succeeded nobody knows what is there.
        let present = match self.present.take() {
            Some(present) => Some(present),
            None => nft::list(table).await.ok().map(|json| Names::from_json(&json)),
        };
        let updated = match present {
            Some(present) => nft::apply(&text::update(table, plan, cluster, &present)).await,
            None => Err("it is not there yet".to_owned()),
        };
        if let Err(error) = updated {
            tracing::debug!(table, error, "the table is written anew");
            nft::apply(whole).await?;
        }
        self.present = Some(Names::of(plan));
        Ok(())
    }

    async fn forget_flows(&mut self, plan: &Plan) {
        let flows = (plan.udp.clone(), plan.udp_node_ports.clone());
        if self.flows.as_ref() == Some(&flows) {
            return;
        }
        let plan = Plan { udp: flows.0.clone(), udp_node_ports: flows.1.clone(), ..Plan::default() };
        self.flows = Some(flows);
        if plan.udp.is_empty() {
            return;
        }
        match tokio::task::spawn_blocking(move || conntrack::forget(&plan)).await {
            Ok(Ok(0)) => {}
            Ok(Ok(count)) => tracing::info!(count, "UDP flows to endpoints that are gone were forgotten"),
            Ok(Err(error)) => tracing::warn!(error, "UDP clients may go on sending to endpoints that are gone"),
            Err(error) => tracing::warn!(%error, "UDP flows were not looked at"),
        }
    }

    /// What is written is not known any more.
    pub fn forget(&mut self) {
        *self = Self::default();
    }
}
