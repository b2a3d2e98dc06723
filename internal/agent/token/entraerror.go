// What Entra ID's refusals mean, and what to do about them.
//
// The codes are those of
// https://learn.microsoft.com/entra/identity-platform/reference-error-codes.

package token

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	v1 "github.com/podid-io/podid/api/v1"
)

// refused makes a problem of an answer that is not 200.
func (x *exchange) refused(resp *http.Response, body []byte, r Request, at endpoint, with proof) *problem {
	if resp.StatusCode == http.StatusTooManyRequests {
		return throttled(retryAfter(resp.Header, time.Now()))
	}
	e, ok := readEntraError(body)
	if !ok || resp.StatusCode < 400 {
		return entraTrouble(at, fmt.Sprintf("gave an answer that makes no sense (%d)", resp.StatusCode), nil)
	}
	said := saying{code: e.code(), word: clip(readable(e.Error, r.Identity, with), 64), text: readable(e.Description, r.Identity, with)}
	switch {
	case slowDown(said.code):
		return throttled(retryAfter(resp.Header, time.Now()))
	case resp.StatusCode >= 500, resp.StatusCode == http.StatusRequestTimeout, passes(said):
		p := entraTrouble(at, "has trouble", errors.New(said.String()))
		p.RetryAfter = retryAfter(resp.Header, time.Now())
		return p
	default:
		return explain(said, r, at, with)
	}
}

// saying is an error of Entra ID, fit for logs.
type saying struct {
	code       int // of AADSTS, 0 for none
	word, text string
}

func (s saying) String() string {
	return fmt.Sprintf("it said %s: %s", s.word, s.text)
}

// label is how a message refers to it.
func (s saying) label() string {
	if s.code == 0 {
		return s.word
	}
	return fmt.Sprintf("AADSTS%d", s.code)
}

// code is the first of the error's codes, from its text where it lists none.
func (e entraError) code() int {
	if len(e.Codes) > 0 {
		return e.Codes[0]
	}
	if m := regexp.MustCompile(`AADSTS([0-9]{4,8})`).FindStringSubmatch(e.Description); m != nil {
		code, _ := strconv.Atoi(m[1]) // digits only
		return code
	}
	return 0
}

// readable is the first sentence or two of a description: no trace ids, which
// differ each time, no whole client id, and nothing of the proof. Whoever answers
// may not be Entra ID, but whatever adEndpoint names.
func readable(description string, id *v1.AzureIdentity, with proof) string {
	text, _, _ := strings.Cut(description, "Trace ID:")
	if with.leaked(description) {
		return "(not shown: it repeats what must stay secret)"
	}
	return clip(shortened(strings.Join(strings.Fields(text), " "), id.Spec.ClientID), 400)
}

func throttled(wait time.Duration) *problem {
	return &problem{passing: true, Failure: Failure{
		Status: http.StatusTooManyRequests, Code: "too_many_requests", RetryAfter: wait,
		Message: "Entra ID has too many requests of this identity: try again later",
	}}
}

func entraTrouble(at endpoint, what string, cause error) *problem {
	return &problem{passing: true, Failure: Failure{
		Status: http.StatusInternalServerError, Code: "entra_id_trouble", Cause: cause,
		Message: "Entra ID (" + at.host + ") " + what + ": try again",
	}}
}

// slowDown are Entra ID's ways to say 429 by another status.
func slowDown(code int) bool { return code == 90055 || code == 50196 || code == 7000190 }

// passes tells whether an error is one that another try may not meet: Entra ID's
// own trouble, or a failure to read the issuer of a federated token.
func passes(s saying) bool {
	switch s.code {
	case 90006, 90024, 90033, 90090, 90061, 50166, 5001256:
		return true
	}
	return s.word == "temporarily_unavailable" || s.word == "server_error"
}

// explain says in words what is wrong and who can put it right. It is final.
func explain(s saying, r Request, at endpoint, with proof) *problem {
	id := r.Identity
	if invalidResource(s) {
		return &problem{Failure: Failure{
			Status: http.StatusBadRequest, Code: "invalid_resource", Cause: errors.New(s.String()),
			Message: fmt.Sprintf("Entra ID knows no resource %q in this tenant (%s): correct the resource that the program asks for", clip(r.Resource, 200), s.label()),
		}}
	}
	remedy, rejected := remedyOf(s, id, at, with)
	status, code := http.StatusForbidden, "entra_id_refused"
	if s.code == 700024 {
		status, code = http.StatusInternalServerError, "clock_wrong"
	}
	return &problem{rejected: rejected, Failure: Failure{
		Status: status, Code: code, Cause: errors.New(s.String()),
		Message: fmt.Sprintf("Entra ID (%s) refuses AzureIdentity %s (%s): %s", at.host, name(id), s.label(), remedy),
	}}
}

// invalidResource tells whether it is the resource that is wrong.
func invalidResource(s saying) bool {
	switch s.code {
	case 50001, 500011, 500013, 70011, 1002012, 28002, 28003, 650057, 65002:
		return true
	}
	return s.word == "invalid_resource" || s.word == "invalid_scope"
}

// remedyOf is what is the matter and what to do, and whether it is the proof that
// was rejected.
func remedyOf(s saying, id *v1.AzureIdentity, at endpoint, with proof) (remedy string, rejected bool) {
	switch s.code {
	case 7000215, 7000216, 7000218:
		return fmt.Sprintf("the client secret in Secret %s is wrong: put the secret's value there, not its ID; a new one: az ad app credential reset --id <clientID> --append", secretName(id)), true
	case 7000222:
		return fmt.Sprintf("the client secret in Secret %s has expired: make a new one (az ad app credential reset --id <clientID> --append) and put it there", secretName(id)), true
	case 700027, 7000277:
		return fmt.Sprintf("the %s in Secret %s is not one that the application has, or the key does not belong to it: az ad app credential reset --id <clientID> --cert @certificate.pem --append",
			with.names(), secretName(id)), true
	case 700211, 700212, 700213, 70021:
		return federatedRemedy(s, id, with), true
	case 700016:
		return fmt.Sprintf("tenant %s has no application with the client ID %s: correct clientID or tenantID; az ad sp show --id <clientID> tells whether the tenant knows it",
			at.tenant, brief(id.Spec.ClientID)), false
	case 7000229:
		return fmt.Sprintf("the application has no service principal in tenant %s: az ad sp create --id <clientID>", at.tenant), false
	case 7000112, 700082, 50057, 500021:
		return "the application or the tenant is disabled: enable it, or use another identity", false
	case 90002, 900021, 900023, 900382, 90130:
		return fmt.Sprintf("there is no tenant %s in this cloud: correct tenantID or auxiliaryTenantIDs (az account show --query tenantId), or adEndpoint for another cloud", at.tenant), false
	case 700023, 700021, 50012:
		return "the assertion is not for this authority: correct adEndpoint or tenantID", true
	case 700024:
		return "the times of the assertion are wrong: set the clock of this node (and of the API server)", false
	default:
		return s.text, s.word == "invalid_client"
	}
}

// federatedRemedy names what the federated credential must say.
func federatedRemedy(s saying, id *v1.AzureIdentity, with proof) string {
	what := map[int]string{700211: "issuer", 700212: "audience", 700213: "subject"}[s.code]
	if what == "" {
		what = "issuer, subject and audience"
	}
	return fmt.Sprintf("it has no federated credential with the %s of this cluster's token (%s): podid identity federate %s -n %s prints the command that makes one",
		what, with.names(), id.Name, id.Namespace)
}

// brief is a client id as messages show it.
func brief(clientID string) string { return shortened(clientID, clientID) }
