//! Reflection, and the limits that flags set.

use balsa_proto::etcd::etcdserverpb::{Compare, PutRequest, RequestOp, TxnRequest, request_op::Request};
use prost::Message as _;
use tonic::Code;
use tonic::transport::Endpoint;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::ServerReflectionRequest;

use crate::support::single;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_are_listed_and_described_by_reflection() {
    let (_dir, handle, _) = single(|_| ()).await;
    let channel = Endpoint::from_shared(format!("http://{}", handle.client_addr)).unwrap().connect_lazy();
    let mut client = ServerReflectionClient::new(channel.clone());
    let mut ask = async |message_request: MessageRequest| {
        let request = ServerReflectionRequest { host: String::new(), message_request: Some(message_request) };
        let mut answers = client.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
        answers.message().await.map(|answer| answer.unwrap().message_response.unwrap())
    };
    let MessageResponse::ListServicesResponse(list) = ask(MessageRequest::ListServices(String::new())).await.unwrap() else {
        panic!("a list of services")
    };
    let names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    for service in [
        "etcdserverpb.KV", "etcdserverpb.Watch", "etcdserverpb.Lease", "etcdserverpb.Cluster", "etcdserverpb.Maintenance",
        "etcdserverpb.Auth", "v3lockpb.Lock", "v3electionpb.Election",
    ] {
        assert!(names.iter().any(|name| name == service), "{service} in {names:?}");
    }
    let described = ask(MessageRequest::FileContainingSymbol("etcdserverpb.KV".to_owned())).await.unwrap();
    let MessageResponse::FileDescriptorResponse(files) = described else { panic!("{described:?}") };
    let file = prost_types::FileDescriptorProto::decode(files.file_descriptor_proto[0].as_slice()).unwrap();
    let service = file.service.iter().find(|service| service.name() == "KV").unwrap();
    let methods: Vec<&str> = service.method.iter().map(|method| method.name()).collect();
    assert_eq!(methods, ["Range", "Put", "DeleteRange", "Txn", "Compact"]);
    let unknown = ask(MessageRequest::FileContainingSymbol("no.Such".to_owned())).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    // Older tools know only the version before.
    use tonic_reflection::pb::v1alpha as alpha;
    let mut older = alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let list = alpha::server_reflection_request::MessageRequest::ListServices(String::new());
    let request = alpha::ServerReflectionRequest { host: String::new(), message_request: Some(list) };
    assert!(older.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner().message().await.unwrap().is_some());
    handle.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_and_requests_are_as_large_as_the_flags_let_them() {
    let (_dir, handle, mut client) = single(|config| {
        config.max_txn_ops = 3;
        config.max_request_bytes = 10_000;
    })
    .await;
    let put = |number: usize| {
        let put = PutRequest { key: format!("k{number}").into(), ..Default::default() };
        RequestOp { request: Some(Request::RequestPut(put)) }
    };
    let txn = |count: usize| TxnRequest { success: (0..count).map(put).collect(), ..Default::default() };
    client.kv.txn(txn(3)).await.unwrap();
    let mut refused = vec![client.kv.txn(txn(4)).await.unwrap_err()];
    let compares = TxnRequest { compare: vec![Compare { key: "k".into(), ..Default::default() }; 4], ..Default::default() };
    refused.push(client.kv.txn(compares).await.unwrap_err());
    let nested = RequestOp { request: Some(Request::RequestTxn(txn(4))) };
    refused.push(client.kv.txn(TxnRequest { failure: vec![nested], ..Default::default() }).await.unwrap_err());
    for status in refused {
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "etcdserver: too many operations in txn request"));
    }
    client.put("k", &"x".repeat(9_900)).await.unwrap();
    let large = client.put("k", &"x".repeat(10_000)).await.unwrap_err();
    assert_eq!((large.code(), large.message()), (Code::InvalidArgument, "etcdserver: request is too large"));
    handle.stop().await.unwrap();
}
