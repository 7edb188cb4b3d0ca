//! Prints the OpenAPI document of this build, from which the client is generated. Owns nothing.

fn main() {
    print!("{}", lucarne_api::openapi_json());
}
