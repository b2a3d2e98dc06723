// Package control lets tests control a running emulator: an HTTP API for the world, and a Go client
// for it.
package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/podid-io/podid/internal/emulator/world"
)

const (
	maxBody = 8 << 20
	maxWait = 60 * time.Second // of GET /v1/requests?wait=
	masked  = "(masked; ask with ?secrets=true)"
)

// Server serves the control API. It has no authentication, so only its user may be able to reach
// its address.
type Server struct {
	world *world.World
	mux   *http.ServeMux
}

// NewServer returns a server for the world.
func NewServer(w *world.World) *Server {
	s := &Server{world: w, mux: http.NewServeMux()}
	handle := func(pattern string, f func(*http.Request) (any, error)) {
		s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { answer(w, r, f) })
	}
	handle("GET /v1/world", s.getWorld)
	handle("PUT /v1/world", s.putWorld)
	handle("PATCH /v1/settings", s.patchSettings)
	handle("GET /v1/settings", func(*http.Request) (any, error) { return s.world.Settings(), nil })
	handle("GET /v1/machines", s.machines)
	handle("PUT /v1/identities", put(s, func(d *world.Document) *[]world.Identity { return &d.Identities }, identityKey))
	handle("DELETE /v1/identities", remove(s, "resourceID", func(d *world.Document) *[]world.Identity { return &d.Identities }, identityKey))
	handle("POST /v1/identities/recreate", s.recreateIdentity)
	handle("PUT /v1/applications", put(s, func(d *world.Document) *[]world.Application { return &d.Applications }, applicationKey))
	handle("DELETE /v1/applications", remove(s, "clientID", func(d *world.Document) *[]world.Application { return &d.Applications }, applicationKey))
	handle("PUT /v1/virtualMachines", put(s, vms, machineKey))
	handle("DELETE /v1/virtualMachines", remove(s, "name", vms, machineKey))
	handle("PUT /v1/scaleSets", put(s, scaleSets, machineKey))
	handle("DELETE /v1/scaleSets", remove(s, "name", scaleSets, machineKey))
	handle("PUT /v1/issuers", put(s, issuers, issuerKey))
	handle("DELETE /v1/issuers", remove(s, "issuer", issuers, issuerKey))
	handle("PUT /v1/roleAssignments", s.putRoles)
	handle("GET /v1/faults", func(*http.Request) (any, error) { return s.world.Faults(), nil })
	handle("PUT /v1/faults", s.putFault)
	handle("DELETE /v1/faults", s.deleteFault)
	handle("GET /v1/requests", s.requests)
	handle("DELETE /v1/requests", func(*http.Request) (any, error) { s.world.Log().Clear(); return done(), nil })
	handle("POST /v1/reset", func(*http.Request) (any, error) { return done(), s.world.Reset() })
	return s
}

// done is the response of calls that return no data.
func done() map[string]string { return map[string]string{"status": "done"} }

func identityKey(i world.Identity) string       { return i.ResourceID }
func applicationKey(a world.Application) string { return a.ClientID }
func issuerKey(i world.Issuer) string           { return i.Issuer }

// machineKey returns the name. Unlike Azure, the control API treats names as unique in the world.
func machineKey(m world.Machine) string            { return m.Name }
func vms(d *world.Document) *[]world.Machine       { return &d.VirtualMachines }
func scaleSets(d *world.Document) *[]world.Machine { return &d.ScaleSets }
func issuers(d *world.Document) *[]world.Issuer    { return &d.Issuers }

// ServeHTTP rejects requests that a web page could send, since any page on the internet can reach a
// loopback port through the user's browser. These are requests with an Origin, and requests whose
// Host is not an address of this server.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = r.Host
	}
	_, notAddress := netip.ParseAddr(strings.Trim(host, "[]"))
	if r.Header.Get("Origin") != "" || (notAddress != nil && !world.EqualFold(host, "localhost")) {
		writeJSON(w, http.StatusForbidden, map[string]string{"error": "the control API is not for web pages: use its IP address"})
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	s.mux.ServeHTTP(w, r)
}

// errNotFound results in 404. Other errors are the client's fault and result in 400.
var errNotFound = errors.New("not found")

func answer(w http.ResponseWriter, r *http.Request, f func(*http.Request) (any, error)) {
	body, err := f(r)
	switch {
	case errors.Is(err, errNotFound):
		writeJSON(w, http.StatusNotFound, map[string]string{"error": err.Error()})
	case err != nil:
		writeJSON(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
	default:
		writeJSON(w, http.StatusOK, body)
	}
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	data, err := json.MarshalIndent(body, "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n'))
}

func read(r *http.Request, into any) error {
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return fmt.Errorf("read body: %w", err)
	}
	return nil
}

func (s *Server) getWorld(r *http.Request) (any, error) {
	doc, err := s.world.Document()
	if r.URL.Query().Get("secrets") != "true" {
		for i := range doc.Applications {
			if doc.Applications[i].Secret != "" {
				doc.Applications[i].Secret = masked
			}
		}
	}
	return doc, err
}

// putWorld replaces the world with one in YAML or JSON.
func (s *Server) putWorld(r *http.Request) (any, error) {
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, fmt.Errorf("read body: %w", err)
	}
	doc, err := world.Parse(data)
	if err != nil {
		return nil, err
	}
	return done(), s.world.Replace(doc)
}

// patchSettings changes the settings in the body and keeps the others.
func (s *Server) patchSettings(r *http.Request) (any, error) {
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, fmt.Errorf("read body: %w", err)
	}
	err = s.world.Edit(func(d *world.Document) error {
		decoder := json.NewDecoder(strings.NewReader(string(data)))
		decoder.DisallowUnknownFields()
		return decoder.Decode(&d.Settings)
	})
	return s.world.Settings(), err
}

func (s *Server) machines(r *http.Request) (any, error) {
	list := []Machine{}
	for _, view := range s.world.Machines("", "", "") {
		if name := r.URL.Query().Get("name"); name != "" && !world.EqualFold(name, view.Name) {
			continue
		}
		list = append(list, Machine{
			ID: view.ID.String(), Name: view.Name, Updating: view.Updating, SystemAssigned: view.SystemAssigned != nil,
			Identities: nonNil(view.Identities), OnIMDS: nonNil(view.OnIMDS),
		})
	}
	return list, nil
}

func nonNil(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// put adds an entry to a list of the world, or replaces the one with its key.
func put[T any](s *Server, list func(*world.Document) *[]T, key func(T) string) func(*http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		var fresh T
		if err := read(r, &fresh); err != nil {
			return nil, err
		}
		return done(), s.world.Edit(func(d *world.Document) error {
			entries := list(d)
			for i, old := range *entries {
				if world.EqualFold(key(old), key(fresh)) {
					(*entries)[i] = fresh
					return nil
				}
			}
			*entries = append(*entries, fresh)
			return nil
		})
	}
}

// remove deletes the entry whose key is the query parameter called param.
func remove[T any](s *Server, param string, list func(*world.Document) *[]T, key func(T) string) func(*http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		wanted := r.URL.Query().Get(param)
		return done(), s.world.Edit(func(d *world.Document) error {
			entries := list(d)
			for i, old := range *entries {
				if world.EqualFold(key(old), wanted) {
					*entries = append((*entries)[:i], (*entries)[i+1:]...)
					return nil
				}
			}
			return fmt.Errorf("%s %q: %w", param, wanted, errNotFound)
		})
	}
}

// recreateIdentity deletes an identity and creates it again under its name. It gets new IDs, and
// machines that list it no longer have it.
func (s *Server) recreateIdentity(r *http.Request) (any, error) {
	wanted := r.URL.Query().Get("resourceID")
	var fresh world.Identity
	err := s.world.Edit(func(d *world.Document) error {
		for i := range d.Identities {
			if world.EqualFold(d.Identities[i].ResourceID, wanted) {
				d.Identities[i].ClientID, d.Identities[i].PrincipalID = world.NewGUID(), world.NewGUID()
				fresh = d.Identities[i]
				return nil
			}
		}
		return fmt.Errorf("resourceID %q: %w", wanted, errNotFound)
	})
	return fresh, err
}

// putRoles replaces all role assignments.
func (s *Server) putRoles(r *http.Request) (any, error) {
	var roles []world.RoleAssignment
	if err := read(r, &roles); err != nil {
		return nil, err
	}
	return done(), s.world.Edit(func(d *world.Document) error { d.RoleAssignments = roles; return nil })
}

func (s *Server) putFault(r *http.Request) (any, error) {
	var fault world.Fault
	if err := read(r, &fault); err != nil {
		return nil, err
	}
	return done(), s.world.SetFault(fault)
}

func (s *Server) deleteFault(r *http.Request) (any, error) {
	name := r.URL.Query().Get("name")
	if !s.world.RemoveFault(name) && name != "" {
		return nil, fmt.Errorf("fault %q: %w", name, errNotFound)
	}
	return done(), nil
}

// requests returns the log entries that the query selects. With wait, it waits that long for the
// first one.
func (s *Server) requests(r *http.Request) (any, error) {
	q := r.URL.Query()
	filter := world.Filter{
		Surface: q.Get("surface"), Method: q.Get("method"), Caller: q.Get("caller"), Path: q.Get("path"),
	}
	var err error
	if text := q.Get("status"); text != "" {
		if filter.Status, err = strconv.Atoi(text); err != nil {
			return nil, fmt.Errorf("status %q: expected a number", text)
		}
	}
	if text := q.Get("after"); text != "" {
		if filter.After, err = strconv.ParseUint(text, 10, 64); err != nil {
			return nil, fmt.Errorf("after %q: expected a number", text)
		}
	}
	if text := q.Get("wait"); text != "" {
		limit, err := time.ParseDuration(text)
		if err != nil || limit < 0 || limit > maxWait {
			return nil, fmt.Errorf("wait %q: expected a duration of at most %s", text, maxWait)
		}
		ctx, cancel := context.WithTimeout(r.Context(), limit)
		defer cancel()
		s.world.Log().Wait(ctx, filter)
	}
	return s.world.Log().Find(filter), nil
}
