// What Entra ID's errors mean, and what to do about them.
//
// The codes are those of
// https://learn.microsoft.com/entra/identity-platform/reference-error-codes.

package entra

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/agent/token"
	"github.com/podid-io/podid/internal/agent/token/source"
	"github.com/podid-io/podid/internal/reason"
)

// refused returns the failure for an answer that is not 200.
func refused(resp *http.Response, body []byte, r token.Request, at endpoint, with proof) error {
	wait := source.RetryAfter(resp.Header, time.Now())
	if resp.StatusCode == http.StatusTooManyRequests {
		return throttled(wait)
	}
	e, ok := readError(body, r.Identity, with)
	if !ok || resp.StatusCode < 400 {
		return trouble(at, fmt.Sprintf("returned an invalid response (%d)", resp.StatusCode), nil)
	}
	switch {
	case e.throttled():
		return throttled(wait)
	case resp.StatusCode >= 500, resp.StatusCode == http.StatusRequestTimeout, e.transient():
		f := trouble(at, "has trouble", e)
		f.RetryAfter = wait
		return f
	default:
		return explain(e, r, at, with)
	}
}

// entraError is an error of Entra ID or ADFS, fit for logs.
type entraError struct {
	code       int // of AADSTS, 0 for none
	word, text string
}

// readError reads an error's body. It returns false for anything else.
func readError(body []byte, id *v1.AzureIdentity, with proof) (entraError, bool) {
	var e struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
		Codes       []int  `json:"error_codes"`
	}
	if json.Unmarshal(body, &e) != nil || e.Error == "" {
		return entraError{}, false
	}
	code := 0
	if len(e.Codes) > 0 {
		code = e.Codes[0]
	} else if m := regexp.MustCompile(`AADSTS([0-9]{4,8})`).FindStringSubmatch(e.Description); m != nil {
		code, _ = strconv.Atoi(m[1]) // digits only
	}
	word := source.Clip(readable(e.Error, id, with), 64)
	return entraError{code: code, word: word, text: readable(e.Description, id, with)}, true
}

// readable returns the beginning of a description. It removes trace IDs, which differ each time,
// cuts client IDs, and hides a text that repeats the proof: the answer may come from any host that
// an adEndpoint names.
func readable(description string, id *v1.AzureIdentity, with proof) string {
	text, _, _ := strings.Cut(description, "Trace ID:")
	if with.leaked(description) {
		return "(not shown: it repeats what must stay secret)"
	}
	return source.Clip(source.Shorten(strings.Join(strings.Fields(text), " "), id.Spec.ClientID), 400)
}

// Error returns the error as logs show it.
func (e entraError) Error() string { return fmt.Sprintf("it said %s: %s", e.word, e.text) }

// label returns the error as messages show it.
func (e entraError) label() string {
	if e.code == 0 {
		return e.word
	}
	return fmt.Sprintf("AADSTS%d", e.code)
}

// throttled reports whether Entra ID means 429 by another status.
func (e entraError) throttled() bool { return e.code == 90055 || e.code == 50196 || e.code == 7000190 }

// transient reports whether a retry may succeed: Entra ID has trouble itself, or could not read the
// issuer of a federated token.
func (e entraError) transient() bool {
	switch e.code {
	case 90006, 90024, 90033, 90090, 90061, 50166, 5001256:
		return true
	}
	return e.word == "temporarily_unavailable" || e.word == "server_error"
}

func throttled(wait time.Duration) *reason.Refusal {
	return &reason.Refusal{
		Reason: reason.EntraThrottled, RetryAfter: wait,
		Message: "Entra ID has too many requests of this identity: try again later",
	}
}

func trouble(at endpoint, what string, cause error) *reason.Refusal {
	return &reason.Refusal{
		Reason: reason.EntraTrouble, Cause: cause,
		Message: "Entra ID (" + at.host + ") " + what + ": try again",
	}
}

// explain returns the final failure for an error: what is wrong, and who can fix it.
func explain(e entraError, r token.Request, at endpoint, with proof) error {
	id := r.Identity
	if e.invalidResource() {
		return &reason.Refusal{
			Reason: reason.EntraResource, Cause: e,
			Message: fmt.Sprintf("Entra ID knows no resource %q in this tenant (%s): "+
				"correct the resource that the program asks for", source.Clip(r.Resource, 200), e.label()),
		}
	}
	remedy, rejected := remedyOf(e, id, at, with)
	f := &reason.Refusal{
		Reason: reason.EntraRefused, Cause: e,
		Message: fmt.Sprintf("Entra ID (%s) refuses AzureIdentity %s (%s): %s",
			at.host, source.Name(id), e.label(), remedy),
	}
	if e.code == 700024 {
		f.Reason = reason.ClockWrong
	}
	if rejected {
		return rejection{f}
	}
	return f
}

// invalidResource reports whether the requested resource is wrong.
func (e entraError) invalidResource() bool {
	switch e.code {
	case 50001, 500011, 500013, 70011, 1002012, 28002, 28003, 650057, 65002:
		return true
	}
	return e.word == "invalid_resource" || e.word == "invalid_scope"
}

// remedyOf returns what is wrong and what to do, and whether the proof was rejected.
func remedyOf(e entraError, id *v1.AzureIdentity, at endpoint, with proof) (remedy string, rejected bool) {
	switch e.code {
	case 7000215, 7000216, 7000218:
		return fmt.Sprintf("the client secret in Secret %s is wrong: put the secret's value there, not its ID; "+
			"a new one: az ad app credential reset --id <clientID> --append", secretName(id)), true
	case 7000222:
		return fmt.Sprintf("the client secret in Secret %s has expired: make a new one "+
			"(az ad app credential reset --id <clientID> --append) and put it there", secretName(id)), true
	case 700027, 7000277:
		return fmt.Sprintf("the %s in Secret %s is not one that the application has, or the key does not belong "+
			"to it: az ad app credential reset --id <clientID> --cert @certificate.pem --append",
			with.describe(), secretName(id)), true
	case 700211, 700212, 700213, 70021:
		return federatedRemedy(e, id, with), true
	case 700016:
		return fmt.Sprintf("tenant %s has no application with the client ID %s: correct clientID or tenantID; "+
			"az ad sp show --id <clientID> shows whether the tenant knows it",
			at.tenant, source.Brief(id.Spec.ClientID)), false
	case 7000229:
		return fmt.Sprintf("the application has no service principal in tenant %s: az ad sp create --id <clientID>",
			at.tenant), false
	case 7000112, 700082, 50057, 500021:
		return "the application or the tenant is disabled: enable it, or use another identity", false
	case 90002, 900021, 900023, 900382, 90130:
		return fmt.Sprintf("there is no tenant %s in this cloud: correct tenantID or auxiliaryTenantIDs "+
			"(az account show --query tenantId), or adEndpoint for another cloud", at.tenant), false
	case 700023, 700021, 50012:
		return "the assertion is not for this authority: correct adEndpoint or tenantID", true
	case 700024:
		return "the times of the assertion are wrong: set the clock of this node (and of the API server)", false
	default:
		return e.text, e.word == "invalid_client"
	}
}

// federatedRemedy returns what the federated credential must say.
func federatedRemedy(e entraError, id *v1.AzureIdentity, with proof) string {
	what := map[int]string{700211: "issuer", 700212: "audience", 700213: "subject"}[e.code]
	if what == "" {
		what = "issuer, subject and audience"
	}
	return fmt.Sprintf("it has no federated credential with the %s of this cluster's token (%s): "+
		"podid identity federate %s -n %s prints the command that makes one",
		what, with.describe(), id.Name, id.Namespace)
}
