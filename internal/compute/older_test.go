// Older versions of Azure's API, and other clouds. They answer a write with 201 or 202, and give
// the polling URL in other ways.

package compute

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// older makes the small ARM behave like an older version.
type older struct {
	transporter
	status int
	style  string // the header with the polling URL, empty for none
	bare   bool   // the response to a write has no body
	mute   bool   // the response to a write has no state
	short  bool   // the response to the last poll of Location has no body
	target Group
}

// Do implements policy.Transporter.
func (o older) Do(req *http.Request) (*http.Response, error) {
	resp, err := o.transporter.Do(req)
	if err != nil || resp.StatusCode != http.StatusOK {
		return resp, err
	}
	switch {
	case req.Method == http.MethodPatch:
		resp.StatusCode = o.status
		where := resp.Header.Get("Azure-AsyncOperation")
		resp.Header.Del("Azure-AsyncOperation")
		if o.style != "" {
			resp.Header.Set(o.style, where)
		}
		if o.mute {
			resp.Body = io.NopCloser(strings.NewReader(`{"identity":{"type":"UserAssigned","userAssignedIdentities":{"` + idPrefix + `a":{}}}}`))
		}
		if o.bare {
			resp.Body = http.NoBody
		}
	case o.style == "Location" && strings.HasPrefix(req.URL.Path, operations):
		return o.look(req, resp)
	}
	return resp, nil
}

// look answers like a Location: by status, and with the resource or the error at the end.
func (o older) look(req *http.Request, resp *http.Response) (*http.Response, error) {
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	resp.Body = http.NoBody
	switch {
	case bytes.Contains(body, []byte("InProgress")):
		resp.StatusCode = http.StatusAccepted
	case bytes.Contains(body, []byte("Failed")):
		resp.StatusCode, resp.Body = http.StatusBadRequest, io.NopCloser(bytes.NewReader(body))
	case !o.short:
		group := req.Clone(req.Context())
		group.URL.Path = o.target.ResourceID()
		return o.transporter.Do(group)
	}
	return resp, nil
}

func TestAccepted(t *testing.T) {
	for _, status := range []int{http.StatusOK, http.StatusCreated, http.StatusAccepted} {
		for _, style := range []string{"Azure-AsyncOperation", "Location", ""} {
			for _, bare := range []bool{false, true} {
				if status == http.StatusOK && bare {
					continue // it reports that the operation is done
				}
				for kind, group := range groupsUnderTest() {
					name := strings.Join([]string{strconv.Itoa(status), style, kind}, "/")
					if bare {
						name += "/bare"
					}
					t.Run(name, func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) {
							accepted(t, older{status: status, style: style, bare: bare, short: bare, target: group}, group)
						})
					})
				}
			}
		}
	}
}

// TestAcceptedMute: Azure shows the goal, and only the status shows that the operation has just
// begun.
func TestAcceptedMute(t *testing.T) {
	for kind, group := range groupsUnderTest() {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { accepted(t, older{status: http.StatusAccepted, mute: true}, group) })
		})
	}
}

// accepted tests one update that succeeds and one that fails.
func accepted(t *testing.T, o older, group Group) {
	arm := newARM(t)
	arm.SetGroup(group, Identities{})
	arm.AddIdentities(ids("a", "b")...)
	arm.SetDuration(20 * time.Second)
	o.transporter = arm
	client := arm.client("https://arm.example", o, nil)
	start := time.Now()
	mustPatch(t, client, group, ids("a"), nil)
	wantTook(t, start, 20*time.Second, 26*time.Second)
	wantIdentities(t, client, group, Identities{UserAssigned: ids("a")})
	if n := len(arm.seen(http.MethodPatch)); n != 1 {
		t.Errorf("%d writes, want one", n)
	}
	arm.outcome = `{"code":"FailedIdentityOperation","message":"Resource '` + idPrefix + `b' was not found."}`
	err := client.Patch(t.Context(), group, ids("b"), nil)
	if err == nil || Definite(err) {
		t.Errorf("%v, want an error that is not Definite: Azure took it", err)
	}
	if o.style == "" {
		return // the reason is unknown
	}
	if diff := cmp.Diff(ids("b"), BadIdentities(err)); diff != "" || !IsRefused(err) {
		t.Errorf("%v (-want +have):\n%s", err, diff)
	}
}

// TestForeignLooks: a proxy's response to a poll is not that of an operation. The same applies to
// its response about the group.
func TestForeignLooks(t *testing.T) {
	for _, style := range []string{"Azure-AsyncOperation", "Location"} {
		for _, status := range []int{http.StatusForbidden, http.StatusNotFound, http.StatusProxyAuthRequired} {
			t.Run(style+"/"+strconv.Itoa(status), func(t *testing.T) {
				story(t, func(t *testing.T, arm *armServer, _ *Client, group Group) {
					arm.SetDuration(20 * time.Second)
					arm.fail(answer{method: http.MethodGet, match: operations, status: status, body: "<html>", times: 2})
					client := arm.client("https://arm.example", older{transporter: arm, status: http.StatusAccepted, style: style, target: group}, nil)
					mustPatch(t, client, group, ids("a"), nil)
					wantIdentities(t, client, group, Identities{UserAssigned: ids("a")})
					arm.fail(answer{method: http.MethodGet, status: status, body: "<html>"})
					if _, err := client.Get(t.Context(), group); IsNotFound(err) || IsForbidden(err) || !strings.Contains(errorText(err), notAzures) {
						t.Errorf("%v", err)
					}
				})
			})
		}
	}
}
