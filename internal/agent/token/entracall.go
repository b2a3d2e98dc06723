// One exchange at a token endpoint, over the wire.

package token

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// call posts the form and reads the answer.
func (x *exchange) call(ctx context.Context, r Request, at endpoint, with proof) (*Token, *problem) {
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {r.Identity.Spec.ClientID}}
	if at.adfs {
		form.Set("resource", r.Resource)
	} else {
		// Nothing is trimmed: a slash more or less makes another audience.
		form.Set("scope", r.Resource+"/.default")
	}
	if err := with.sign(form, at, r.Identity.Spec.ClientID, time.Now()); err != nil {
		return nil, unusable(r.Identity, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, at.url, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, unusable(r.Identity, errors.New("its tenantID or adEndpoint makes no URL"))
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", x.cfg.UserAgent)
	resp, err := x.client.Do(req)
	if err != nil {
		return nil, entraTrouble(at, "does not answer", withoutURL(err))
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxEntraReply))
	if err != nil {
		return nil, entraTrouble(at, "broke off its answer", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, x.refused(resp, body, r, at, with)
	}
	t, err := parseReply(body, time.Now())
	if err != nil {
		return nil, entraTrouble(at, "gave an answer that makes no sense", err)
	}
	t.keepKnown()
	if err := subjectOf(t).mismatch(r.Identity.Spec); err != nil {
		return nil, otherIdentity(r.Identity, "Entra ID ("+at.host+")", err)
	}
	return t, nil
}

// keepKnown drops what the metadata service does not say either: an ID or refresh
// token, say.
func (t *Token) keepKnown() {
	known := []string{"access_token", "token_type", "expires_in", "expires_on", "ext_expires_in", "not_before", "resource"}
	for name := range t.Fields {
		if !slices.Contains(known, name) {
			delete(t.Fields, name)
		}
	}
}

// entraError is an error of Entra ID or ADFS.
type entraError struct {
	Error       string `json:"error"`
	Description string `json:"error_description"`
	Codes       []int  `json:"error_codes"`
}

// readEntraError reads one, false for what is none.
func readEntraError(body []byte) (entraError, bool) {
	var e entraError
	if json.Unmarshal(body, &e) != nil || e.Error == "" {
		return entraError{}, false
	}
	return e, true
}

// away remembers which endpoints said to stay away, and until when. It is bounded: when it is
// full, what ends first is forgotten, of the namespace that has most. Safe for concurrent use.
type away struct {
	mu    sync.Mutex
	until map[awayFrom]time.Time
}

// awayFrom is an endpoint, with the client that it throttles, as a namespace's identities name it.
type awayFrom struct{ namespace, endpoint string }

const maxAways = 256

func newAway() *away { return &away{until: map[awayFrom]time.Time{}} }

func (a *away) stay(from awayFrom, d time.Duration, now time.Time) {
	if d <= 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, known := a.until[from]; !known && len(a.until) >= maxAways {
		a.evict(from.namespace)
	}
	a.until[from] = now.Add(d)
}

// evict forgets what ends first of the namespace that has most: the given one, if none has more.
func (a *away) evict(namespace string) {
	count := map[string]int{}
	for from := range a.until {
		count[from.namespace]++
	}
	for other, n := range count {
		if n > count[namespace] {
			namespace = other
		}
	}
	var soonest awayFrom
	for from, until := range a.until {
		if from.namespace == namespace && (soonest == awayFrom{} || until.Before(a.until[soonest])) {
			soonest = from
		}
	}
	delete(a.until, soonest)
}

// left is how long still to stay away.
func (a *away) left(from awayFrom, now time.Time) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	until, ok := a.until[from]
	if !ok {
		return 0
	}
	left := until.Sub(now)
	if left <= 0 || left > maxAway { // more only when the node's clock was set back
		delete(a.until, from)
		return 0
	}
	return left
}
