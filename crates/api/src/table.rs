//! What a row of the route table says, and the macro that makes table, trait and router from one list.
//!
//! Owns [`Route`], [`Access`] and [`Call`]. The list itself is [`crate::routes`].

use axum::http::{HeaderMap, Method};
use schemars::SchemaGenerator;
use serde_json::Value;

/// Who a route is for. The Cedar policies are written over these groups of actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// Anyone, without credentials.
    Public,
    /// Any user, on what their account owns.
    Read,
    /// Users who run machines: instances, volumes, snapshots.
    Operate,
    /// Users who administer their account: networks, images, users, keys.
    Administer,
    /// Principals of the operator account.
    Provide,
    /// An enrolled host, for itself.
    Host,
}

impl Access {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Administer => "administer",
            Self::Provide => "provide",
            Self::Host => "host",
        }
    }
}

/// One row: a method at a path, what it takes and gives.
#[derive(Clone, Debug)]
pub struct Route {
    /// The operation's name; also the Cedar action and the client's method.
    pub name: &'static str,
    pub summary: &'static str,
    pub method: Method,
    pub path: &'static str,
    pub access: Access,
    /// Schemas of path parameters (in the order of the path), query, body and answer.
    pub(crate) parameters: fn(&mut SchemaGenerator) -> Vec<Value>,
    pub(crate) query: fn(&mut SchemaGenerator) -> Value,
    pub(crate) body: fn(&mut SchemaGenerator) -> Option<Value>,
    pub(crate) answer: fn(&mut SchemaGenerator) -> Value,
    /// Whether the body or the answer is a stream that has no time limit.
    pub streams: bool,
}

impl Route {
    /// Whether the route changes something, and so takes an idempotency key and a dry run.
    pub fn changes(&self) -> bool {
        self.method != Method::GET && self.access != Access::Read && !self.streams
    }
}

/// One request, authenticated and read.
#[derive(Debug)]
pub struct Call<C, P, Q, B> {
    /// Who asks, as [`Api::admit`](crate::Api::admit) found.
    pub caller: C,
    pub path: P,
    pub query: Q,
    pub body: B,
    pub headers: HeaderMap,
}

macro_rules! routes {
    ($($(#[doc = $doc:literal])* $access:ident $method:ident $path:literal
        $name:ident($path_type:ty, $query:ty, $body:ty) -> $answer:ty;)*) => {
        /// Every route, in the order of the documentation.
        pub static ROUTES: &[Route] = &[$(Route {
            name: stringify!($name),
            summary: concat!($($doc),*),
            method: Method::$method,
            path: $path,
            access: Access::$access,
            parameters: <$path_type as crate::input::PathParameters>::schemas,
            query: crate::input::schema_of::<$query>,
            body: <$body as crate::input::Input>::document,
            answer: <$answer as crate::answer::Answer>::document,
            streams: <$body as crate::input::Input>::STREAMS || <$answer as crate::answer::Answer>::STREAMS,
        }),*];

        /// What answers the routes: one function each, and [`Api::admit`] before any of them.
        pub trait Api: Send + Sync + 'static {
            /// What is known of who asks.
            type Caller: Send + 'static;
            /// Authenticates, limits the rate and authorises, from the head of the request alone.
            fn admit(
                &self,
                route: &'static Route,
                head: &axum::http::request::Parts,
            ) -> impl Future<Output = Result<Self::Caller, Problem>> + Send;

            $(
                $(#[doc = $doc])*
                fn $name(
                    &self,
                    call: Call<Self::Caller, $path_type, $query, $body>,
                ) -> impl Future<Output = Result<$answer, Problem>> + Send;
            )*
        }

        /// Routes requests to `api`. Time limits of connections and the size of headers are the server's business.
        pub fn router<A: Api>(api: std::sync::Arc<A>, limits: crate::input::Limits) -> axum::Router {
            let mut rows = ROUTES.iter();
            let mut router = axum::Router::new();
            $(
                if let Some(route) = rows.next() {
                    let filter = axum::routing::MethodFilter::try_from(route.method.clone());
                    let api = api.clone();
                    let handler = move |request: axum::extract::Request| async move {
                        crate::input::answer(request, route, limits, api, async |api: &A, call| api.$name(call).await).await
                    };
                    if let Ok(filter) = filter {
                        router = router.route(route.path, axum::routing::on(filter, handler));
                    }
                }
            )*
            router
                .fallback(|| async { Problem::new(ErrorCode::NoSuchRoute, "the API has no such path; see /v1/openapi.json") })
                .method_not_allowed_fallback(|| async {
                    Problem::new(ErrorCode::MethodNotAllowed, "the path does not take this method; see /v1/openapi.json")
                })
        }
    };
}
pub(crate) use routes;
