// The Client's requests and delays.

package compute

import (
	"context"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/fake"
	"github.com/google/go-cmp/cmp"
)

// TestPatchBody: the request holds only the identity, null to remove, and the type that keeps other
// identities.
func TestPatchBody(t *testing.T) {
	a, b := idPrefix+"a", idPrefix+"b"
	for _, tt := range []struct {
		name           string
		have           Identities
		attach, detach []string
		want           string
	}{
		{"first", Identities{}, []string{a}, nil, `{"identity":{"type":"UserAssigned","userAssignedIdentities":{"` + a + `":{}}}}`},
		{"beside system", Identities{SystemAssigned: true}, []string{a}, nil, `{"identity":{"type":"SystemAssigned, UserAssigned","userAssignedIdentities":{"` + a + `":{}}}}`},
		{"swap", Identities{UserAssigned: []string{b}}, []string{a}, []string{b}, `{"identity":{"type":"UserAssigned","userAssignedIdentities":{"` + a + `":{},"` + b + `":null}}}`},
		{"only what changes", Identities{UserAssigned: []string{a, idPrefix + "kubelet"}}, []string{b}, nil, `{"identity":{"type":"UserAssigned","userAssignedIdentities":{"` + b + `":{}}}}`},
		{"what is there, too", Identities{UserAssigned: []string{a}}, []string{strings.ToUpper(a), b}, nil, `{"identity":{"type":"UserAssigned","userAssignedIdentities":{"` + a + `":{},"` + b + `":{}}}}`},
		{"Azure's spelling", Identities{UserAssigned: []string{a, b}}, nil, []string{strings.ToUpper(a)}, `{"identity":{"type":"UserAssigned","userAssignedIdentities":{"` + a + `":null}}}`},
		{"last", Identities{UserAssigned: []string{a}}, nil, []string{a}, `{"identity":{"type":"None"}}`},
		{"last beside system", Identities{SystemAssigned: true, UserAssigned: []string{a}}, nil, []string{a}, `{"identity":{"type":"SystemAssigned"}}`},
	} {
		for kind, group := range groupsUnderTest() {
			t.Run(kind+"/"+tt.name, func(t *testing.T) {
				arm := newARM(t)
				arm.SetGroup(group, tt.have)
				arm.AddIdentities(a, b)
				mustPatch(t, arm.client("https://arm.example", arm, nil), group, tt.attach, tt.detach)
				sent := arm.seen(http.MethodPatch)
				if len(sent) != 1 {
					t.Fatalf("%d PATCHes, want one", len(sent))
				}
				want := request{http.MethodPatch, strings.ToLower(group.ResourceID()), tt.want, `"1"`, apiVersion}
				if diff := cmp.Diff(want, sent[0]); diff != "" {
					t.Errorf("(-want +have):\n%s", diff)
				}
			})
		}
	}
}

// story runs a test of one PATCH of a scale set in fake time.
func story(t *testing.T, test func(t *testing.T, arm *armServer, client *Client, group Group)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		arm, group := newARM(t), groupsUnderTest()["vmss"]
		arm.SetGroup(group, Identities{})
		arm.AddIdentities(ids("a", "b")...)
		test(t, arm, arm.client("https://arm.example", arm, nil), group)
	})
}

func TestPolling(t *testing.T) {
	story(t, func(t *testing.T, arm *armServer, client *Client, group Group) {
		arm.SetDuration(2 * time.Second)
		arm.pollHint = 30 // the delay of the SDK's own loop
		start := time.Now()
		mustPatch(t, client, group, ids("a"), nil)
		wantTook(t, start, 2*time.Second, 2*time.Second)
		var polls []request
		for _, r := range arm.seen(http.MethodGet) {
			if strings.HasPrefix(r.Path, "/operations/") {
				polls = append(polls, r)
			}
		}
		if len(polls) != 2 || polls[0].Version != "2016-01-01" {
			t.Errorf("polls %+v, want two with the URL untouched", polls)
		}
	})
}

func TestPollThrottled(t *testing.T) {
	story(t, func(t *testing.T, arm *armServer, client *Client, group Group) {
		arm.SetDuration(5 * time.Second)
		arm.fail(answer{method: http.MethodGet, match: "/operations/", status: http.StatusTooManyRequests, header: map[string]string{"Retry-After": "20"}})
		start := time.Now()
		mustPatch(t, client, group, ids("a"), nil)
		wantTook(t, start, 21*time.Second, 21*time.Second) // Retry-After is obeyed, and the operation kept
	})
}

func TestOperationFails(t *testing.T) {
	story(t, func(t *testing.T, arm *armServer, client *Client, group Group) {
		arm.SetDuration(5 * time.Second)
		arm.outcome = `{"code":"FailedIdentityOperation","message":"Resource '` + idPrefix + `b' was not found."}`
		err := client.Patch(t.Context(), group, ids("a", "b"), nil)
		if diff := cmp.Diff(ids("b"), BadIdentities(err)); diff != "" {
			t.Errorf("%v: bad identities (-want +have):\n%s", err, diff)
		}
		arm.outcome = `{"code":"InternalExecutionError","message":"An internal execution error occurred."}`
		if err := client.Patch(t.Context(), group, ids("a", "b"), nil); err == nil || IsRefused(err) {
			t.Errorf("%v, want an error that blames no identity", err)
		}
		for _, outcome := range []string{
			`{"code":"OperationPreempted","message":"Operation execution has been preempted by a more recent operation."}`,
			`{"code":"AnotherOperationInProgress","message":"about ` + idPrefix + `a"}`,
			`{"code":"VMError","message":"no","details":[{"code":"OperationPreempted","message":"by a later one"}]}`,
		} {
			arm.outcome = outcome
			if err := client.Patch(t.Context(), group, ids("a"), nil); !IsConflict(err) || IsRefused(err) || BadIdentities(err) != nil {
				t.Errorf("%s: %v, want IsConflict", outcome, err)
			}
		}
		for _, body := range []string{
			`{"status":"Canceled"}`, `{"status":"Canceled","error":{"code":"OperationPreempted","message":"by a later one"}}`,
		} {
			arm.fail(answer{method: http.MethodGet, match: operations, status: http.StatusOK, body: body})
			if err := client.Patch(t.Context(), group, ids("b"), nil); !IsConflict(err) {
				t.Errorf("%s: %v, want IsConflict", body, err)
			}
			<-time.After(time.Minute) // the small ARM does not notice the cancellation
			mustPatch(t, client, group, nil, ids("b"))
		}
	})
}

// TestReadsOfVM: a read, a VM update and the read after it cost the subscription two reads and one
// write if the update ends within a second. The write carries the ETag of the read. Later,
// everything is read again.
func TestReadsOfVM(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		arm, group := newARM(t), groupsUnderTest()["vm"]
		arm.SetGroup(group, Identities{})
		arm.AddIdentities(ids("a")...)
		arm.SetDuration(900 * time.Millisecond)
		client := arm.client("https://arm.example", arm, nil)
		wantIdentities(t, client, group, Identities{})
		mustPatch(t, client, group, ids("a"), nil)
		wantIdentities(t, client, group, Identities{UserAssigned: ids("a")})
		if reads, writes := arm.seen(http.MethodGet), arm.seen(http.MethodPatch); len(reads) != 2 || len(writes) != 1 || writes[0].IfMatch == "" {
			t.Errorf("%d reads and %+v, want two and one", len(reads), writes)
		}
		arm.SetGroup(group, Identities{})
		wantIdentities(t, client, group, Identities{})
		<-time.After(time.Minute)
		mustPatch(t, client, group, ids("a"), nil)
		if reads := arm.seen(http.MethodGet); len(reads) != 5 {
			t.Errorf("%d reads, want one before the second update and one after it as well", len(reads))
		}
	})
}

// TestEtag: another writer changes the group between the read and the write.
func TestEtag(t *testing.T) {
	story(t, func(t *testing.T, arm *armServer, client *Client, group Group) {
		stale := answer{method: http.MethodPatch, status: http.StatusPreconditionFailed, body: armBody("PreconditionFailed", "changed")}
		arm.fail(stale)
		arm.fail(stale)
		mustPatch(t, client, group, ids("a"), nil)
		sent := arm.seen(http.MethodPatch)
		if len(sent) != preconditionTries || sent[2].IfMatch != "" {
			t.Errorf("%+v, want a third try without a condition", sent)
		}
		arm.fail(stale)
		arm.fail(stale)
		arm.fail(stale)
		if err := client.Patch(t.Context(), group, nil, ids("a")); !IsConflict(err) {
			t.Errorf("%v, want IsConflict: taking the last one away must never be unconditional", err)
		}
		for _, r := range arm.seen(http.MethodPatch)[3:] {
			if r.IfMatch == "" {
				t.Errorf("%+v has no condition", r)
			}
		}
	})
}

func TestTransientErrors(t *testing.T) {
	story(t, func(t *testing.T, arm *armServer, client *Client, group Group) {
		arm.fail(answer{method: http.MethodGet, status: http.StatusServiceUnavailable})
		arm.fail(answer{method: http.MethodPatch, status: http.StatusInternalServerError})
		mustPatch(t, client, group, ids("a"), nil)
		for range maxRetries + 1 {
			arm.fail(answer{method: http.MethodPatch, status: http.StatusInternalServerError, body: armBody("InternalError", "sorry about "+idPrefix+"b")})
		}
		err := client.Patch(t.Context(), group, ids("b"), nil)
		if err == nil || BadIdentities(err) != nil || IsConflict(err) {
			t.Errorf("%v, want an error without a kind", err)
		}
	})
}

// TestOvertaken: Azure reports success, but the identity is missing.
func TestOvertaken(t *testing.T) {
	story(t, func(t *testing.T, arm *armServer, client *Client, group Group) {
		arm.fail(answer{method: http.MethodPatch, status: http.StatusOK, body: `{"identity":{"type":"UserAssigned"}}`})
		if err := client.Patch(t.Context(), group, ids("a"), nil); !IsConflict(err) {
			t.Errorf("%v, want IsConflict", err)
		}
		arm.SetGroup(group, Identities{UserAssigned: ids("a", "b")})
		arm.fail(answer{method: http.MethodPatch, status: http.StatusOK, body: `{"identity":{"type":"UserAssigned","userAssignedIdentities":{"` + idPrefix + `a":{}}}}`})
		if err := client.Patch(t.Context(), group, nil, ids("a")); !IsConflict(err) {
			t.Errorf("%v, want IsConflict", err)
		}
	})
}

func TestObserver(t *testing.T) {
	var operations []string
	arm := newARM(t)
	client := arm.client("https://arm.example", arm, func(operation string, _ time.Duration, err error) {
		if err != nil {
			operation += " failed"
		}
		operations = append(operations, operation)
	})
	for _, kind := range []string{"vm", "vmss"} {
		group := groupsUnderTest()[kind]
		arm.SetGroup(group, Identities{})
		_ = client.Patch(t.Context(), group, ids("ghost"), nil)
	}
	want := []string{"vm_get", "vm_update failed", "vmss_get", "vmss_update failed"}
	if diff := cmp.Diff(want, operations); diff != "" {
		t.Errorf("(-want +have):\n%s", diff)
	}
}

// TestUntrusted: a private cloud whose CA is not configured.
func TestUntrusted(t *testing.T) {
	arm := newARM(t)
	server := httptest.NewUnstartedServer(arm)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // it would log the rejected handshake
	server.StartTLS()
	defer server.Close()
	_, err := arm.client(server.URL, &http.Client{Transport: &http.Transport{}}, nil).Get(t.Context(), groupsUnderTest()["vm"])
	if !strings.Contains(errorText(err), "SSL_CERT_FILE") {
		t.Errorf("%v", err)
	}
}

func TestCanceled(t *testing.T) {
	arm := newARM(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := arm.client("https://arm.example", arm, nil).Get(ctx, groupsUnderTest()["vm"]); err == nil {
		t.Error("no error")
	}
}

func TestNew(t *testing.T) {
	if _, err := New(Options{}); err == nil {
		t.Error("no credential: no error")
	}
	if _, err := New(Options{Credential: &fake.TokenCredential{}}); err == nil {
		t.Error("no cloud: no error")
	}
}
