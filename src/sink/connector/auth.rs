//! How requests are signed in. A token of OAuth 2 is kept until shortly before it ends, and asked for anew once when a
//! request is answered with 401.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;

use crate::activation::connector::{ConnectorAuth, Grant};
use crate::event::TimeUs;
use crate::sink::http::{HttpClient, Request};
use crate::sink::template::Templates;

/// A token is not used in its last minute.
const MARGIN_S: i64 = 60;
/// RFC 6749 lets a server leave its lifetime out.
const LIFETIME_S: i64 = 600;

pub enum Auth {
    None,
    Header(HeaderName, HeaderValue),
    Query(String, String),
    OAuth2 { client: Box<Client>, token: Mutex<Option<Token>>, shown: std::sync::Mutex<Option<String>> },
}

pub struct Client {
    token_url: Url,
    /// The request for a token, as a form.
    form: String,
}

#[derive(Clone)]
pub struct Token {
    text: String,
    ends_at: TimeUs,
}

pub enum AuthError {
    /// A token cannot be had now.
    Later(String),
    /// It can never be signed.
    Refused(String),
}

impl Auth {
    /// # Errors
    /// A parameter that makes no header or address, as a text without the parameter.
    pub fn new(plan: &ConnectorAuth, context: &Value, templates: &Templates) -> Result<Auth, String> {
        let text = |template: &str| templates.text(template, context);
        Ok(match plan {
            ConnectorAuth::None => Auth::None,
            ConnectorAuth::Bearer(token) => header("authorization", &format!("Bearer {}", text(token)?))?,
            ConnectorAuth::Basic { user, password } => {
                let both = STANDARD.encode(format!("{}:{}", text(user)?, text(password)?));
                header("authorization", &format!("Basic {both}"))?
            }
            ConnectorAuth::Header { name, value } => header(name, &text(value)?)?,
            ConnectorAuth::Query { name, value } => Auth::Query(name.clone(), text(value)?),
            ConnectorAuth::OAuth2(plan) => {
                let url = templates.url(&plan.token_url, context)?;
                let token_url = Url::parse(&url).map_err(|error| format!("`token_url` cannot be called: {error}"))?;
                let mut form = url::form_urlencoded::Serializer::new(String::new());
                form.append_pair("client_id", &text(&plan.client_id)?);
                form.append_pair("client_secret", &text(&plan.client_secret)?);
                match plan.grant {
                    Grant::ClientCredentials => form.append_pair("grant_type", "client_credentials"),
                    Grant::RefreshToken => form.append_pair("grant_type", "refresh_token"),
                };
                if let Some(refresh_token) = &plan.refresh_token {
                    form.append_pair("refresh_token", &text(refresh_token)?);
                }
                if let Some(scope) = &plan.scope {
                    form.append_pair("scope", &text(scope)?);
                }
                let client = Box::new(Client { token_url, form: form.finish() });
                Auth::OAuth2 { client, token: Mutex::new(None), shown: std::sync::Mutex::new(None) }
            }
        })
    }

    /// Secrets that are made of the parameters and must not be told either.
    pub fn derived(&self) -> Vec<String> {
        match self {
            Auth::Header(_, value) => value.to_str().map(|text| text.to_string()).into_iter().collect(),
            _ => Vec::new(),
        }
    }

    /// The token of this moment, for what is told.
    pub fn token_now(&self) -> Option<String> {
        let Auth::OAuth2 { shown, .. } = self else { return None };
        shown.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// The request signed, and the token it has.
    ///
    /// # Errors
    /// There is no token.
    pub async fn sign(
        &self,
        mut request: Request,
        http: &HttpClient,
        now: TimeUs,
    ) -> Result<(Request, Option<String>), AuthError> {
        match self {
            Auth::None => Ok((request, None)),
            Auth::Header(name, value) => {
                request.headers.insert(name, value.clone());
                Ok((request, None))
            }
            Auth::Query(name, value) => {
                request.url.query_pairs_mut().append_pair(name, value);
                Ok((request, None))
            }
            Auth::OAuth2 { client, token, shown } => {
                // Held while one is asked for: the others wait for it instead of asking too.
                let mut token = token.lock().await;
                let valid = token.clone().filter(|token| now < token.ends_at);
                let valid = match valid {
                    Some(valid) => valid,
                    None => {
                        let fresh = client.ask(http, now).await?;
                        *shown.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(fresh.text.clone());
                        token.insert(fresh).clone()
                    }
                };
                let value = HeaderValue::from_str(&format!("Bearer {}", valid.text));
                let mut value =
                    value.map_err(|_| AuthError::Later("the token cannot stand in a header".to_string()))?;
                value.set_sensitive(true);
                request.headers.insert(AUTHORIZATION, value);
                Ok((request, Some(valid.text)))
            }
        }
    }

    /// Lets go of a token that was refused; true where the next request will have another.
    pub async fn forget(&self, refused: &Option<String>) -> bool {
        let (Auth::OAuth2 { token, .. }, Some(refused)) = (self, refused) else { return false };
        let mut token = token.lock().await;
        // Another request may have a new one already.
        if token.as_ref().is_some_and(|token| token.text == *refused) {
            *token = None;
        }
        true
    }
}

fn header(name: &str, value: &str) -> Result<Auth, String> {
    let wrong = || format!("the header `{name}` cannot be sent: a parameter has a line break or the like in it");
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
    let mut value = HeaderValue::from_str(value).map_err(|_| wrong())?;
    value.set_sensitive(true);
    Ok(Auth::Header(name, value))
}

impl Client {
    async fn ask(&self, http: &HttpClient, now: TimeUs) -> Result<Token, AuthError> {
        #[derive(Deserialize)]
        struct Granted {
            access_token: String,
            /// A text with some vendors.
            expires_in: Option<Value>,
        }
        #[derive(Deserialize)]
        struct Denied {
            error: String,
            error_description: Option<String>,
        }
        let later = |said: String| AuthError::Later(format!("a token: {said}"));
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, form)]);
        let request = Request { method: Method::POST, url: self.token_url.clone(), headers, body: self.form.clone() };
        let answer = http.send(request).await.map_err(|error| match error {
            crate::sink::http::NoAnswer::Refused(said) => AuthError::Refused(format!("a token: {said}")),
            error => later(error.to_string()),
        })?;
        if answer.status != StatusCode::OK {
            let said = serde_json::from_str::<Denied>(&answer.body).map(|denied| match denied.error_description {
                Some(more) => format!(": {} ({more})", denied.error),
                None => format!(": {}", denied.error),
            });
            return Err(later(format!("HTTP {}{}", answer.status.as_u16(), said.unwrap_or_default())));
        }
        let granted: Granted =
            serde_json::from_str(&answer.body).map_err(|_| later("the answer has no `access_token`".to_string()))?;
        let lifetime = match granted.expires_in {
            Some(Value::Number(seconds)) => seconds.as_i64(),
            Some(Value::String(seconds)) => seconds.parse().ok(),
            _ => None,
        };
        let lifetime_s = lifetime.unwrap_or(LIFETIME_S);
        // At least a moment: one that ends at once is used for the request at hand all the same.
        let ends_at = now.saturating_add((lifetime_s - MARGIN_S).clamp(1, 86_400) * 1_000_000);
        Ok(Token { text: granted.access_token, ends_at })
    }
}
