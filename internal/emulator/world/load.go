// Reading and validating a world in YAML.

package world

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"strings"

	"sigs.k8s.io/yaml"
)

// maxDocument bounds a world file: far more than any cluster needs, but fast to parse.
const maxDocument = 8 << 20

// ReadFile loads the world of a YAML (or JSON) file.
func ReadFile(path string) (Document, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Document{}, fmt.Errorf("read world: %w", err)
	}
	doc, err := Parse(data)
	if err != nil {
		return Document{}, fmt.Errorf("read world %s: %w", path, err)
	}
	return doc, nil
}

// Parse reads YAML or JSON. Unknown fields are errors; missing settings keep their defaults. The
// result is complete (references to the default tenant, subscription and region are filled in) and
// valid.
func Parse(data []byte) (Document, error) {
	if len(data) > maxDocument {
		return Document{}, fmt.Errorf("larger than %d bytes", maxDocument)
	}
	doc := Document{Settings: DefaultSettings()}
	if err := yaml.UnmarshalStrict(data, &doc); err != nil {
		return Document{}, err
	}
	return Complete(doc)
}

// Marshal writes the document as YAML.
func (d Document) Marshal() ([]byte, error) { return yaml.Marshal(d) }

// Complete fills in a document's defaults and validates it. It does not change its argument.
func Complete(doc Document) (Document, error) {
	doc, err := clone(doc)
	if err != nil {
		return Document{}, err
	}
	doc.fill()
	if err := doc.validate(); err != nil {
		return Document{}, err
	}
	return doc, nil
}

// clone returns a deep copy of the document by encoding and decoding it.
func clone(doc Document) (Document, error) {
	data, err := json.Marshal(doc)
	if err != nil {
		return Document{}, fmt.Errorf("copy world: %w", err)
	}
	var fresh Document
	if err := json.Unmarshal(data, &fresh); err != nil {
		return Document{}, fmt.Errorf("copy world: %w", err)
	}
	return fresh, nil
}

func (d *Document) fill() {
	setDefault(&d.Location, "westeurope")
	var tenant, subscription string
	if len(d.Tenants) > 0 {
		tenant = d.Tenants[0].ID
	}
	for i := range d.Subscriptions {
		setDefault(&d.Subscriptions[i].TenantID, tenant)
	}
	if len(d.Subscriptions) > 0 {
		subscription = d.Subscriptions[0].ID
	}
	for i := range d.Identities {
		setDefault(&d.Identities[i].TenantID, tenant)
	}
	for i := range d.Applications {
		setDefault(&d.Applications[i].TenantID, tenant)
	}
	for i := range d.VirtualMachines {
		d.VirtualMachines[i].fill(subscription, d.Location)
	}
	for i := range d.ScaleSets {
		d.ScaleSets[i].fill(subscription, d.Location)
	}
}

func (m *Machine) fill(subscription, location string) {
	setDefault(&m.SubscriptionID, subscription)
	setDefault(&m.Location, location)
	for i := range m.Instances {
		setDefault(&m.Instances[i].Name, m.Name+"_"+m.Instances[i].ID)
	}
}

func setDefault(field *string, value string) {
	if *field == "" {
		*field = value
	}
}

var (
	guid = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)
	// plainName matches what may be a name in a path: no slashes, question marks or invisible
	// characters.
	plainName = regexp.MustCompile(`^[\p{L}\p{N}_.()-]{1,128}$`)
)

// complaints collects all errors in a file, so that the user can fix them together.
type complaints struct{ errs []error }

func (c *complaints) addf(format string, args ...any) {
	c.errs = append(c.errs, fmt.Errorf(format, args...))
}

func (c *complaints) guid(where, value string) {
	if !guid.MatchString(value) {
		c.addf("%s: %q is not a GUID", where, value)
	}
}

func (c *complaints) name(where, value string) {
	if !plainName.MatchString(value) {
		c.addf("%s: %q is not a name Azure allows", where, value)
	}
}

// once adds an error if the key was used before.
func (c *complaints) once(seen map[string]string, key, where string) {
	key = Fold(key)
	if other, ok := seen[key]; ok {
		c.addf("%s: %q is already used by %s", where, key, other)
		return
	}
	seen[key] = where
}

func (d Document) validate() error {
	c := &complaints{}
	d.validateDirectory(c)
	clients := map[string]string{}
	d.validateIdentities(c, clients)
	d.validateApplications(c, clients)
	addresses := map[string]string{}
	machines := map[string]string{}
	for i, m := range d.VirtualMachines {
		d.validateMachine(c, fmt.Sprintf("virtualMachines[%d]", i), VM, m, machines, addresses)
	}
	for i, m := range d.ScaleSets {
		d.validateMachine(c, fmt.Sprintf("scaleSets[%d]", i), VMSS, m, machines, addresses)
	}
	for i, r := range d.RoleAssignments {
		d.validateRole(c, fmt.Sprintf("roleAssignments[%d]", i), r)
	}
	d.validateSettings(c)
	for _, f := range d.Faults {
		if err := f.validate(); err != nil {
			c.errs = append(c.errs, err)
		}
	}
	return errors.Join(c.errs...)
}

func (d Document) validateDirectory(c *complaints) {
	if len(d.Tenants) == 0 {
		c.addf("tenants: name at least one")
	}
	if len(d.Subscriptions) == 0 {
		c.addf("subscriptions: name at least one")
	}
	seen := map[string]string{}
	for i, t := range d.Tenants {
		where := fmt.Sprintf("tenants[%d]", i)
		c.guid(where+".id", t.ID)
		c.once(seen, t.ID, where)
	}
	for i, s := range d.Subscriptions {
		where := fmt.Sprintf("subscriptions[%d]", i)
		c.guid(where+".id", s.ID)
		c.once(seen, "subscription "+s.ID, where)
		d.knownTenant(c, where, s.TenantID)
	}
	for i, issuer := range d.Issuers {
		given := 0
		for _, s := range []string{issuer.JWKS, issuer.JWKSFile, issuer.JWKSURL} {
			if s != "" {
				given++
			}
		}
		if issuer.Issuer == "" || given != 1 {
			c.addf("issuers[%d]: give an issuer and exactly one of jwks, jwksFile, jwksURL", i)
		}
	}
}

func (d Document) validateIdentities(c *complaints, clients map[string]string) {
	resources := map[string]string{}
	for i, id := range d.Identities {
		where := fmt.Sprintf("identities[%d]", i)
		parsed, err := ParseIdentityID(id.ResourceID)
		if err != nil {
			c.addf("%s: %w", where, err)
		} else if !d.hasSubscription(parsed.SubscriptionID) {
			c.addf("%s: subscription %q is not in subscriptions", where, parsed.SubscriptionID)
		}
		c.once(resources, id.ResourceID, where)
		c.once(clients, id.ClientID, where)
		c.guid(where+".clientID", id.ClientID)
		c.guid(where+".principalID", id.PrincipalID)
		d.knownTenant(c, where, id.TenantID)
	}
}

func (d Document) validateApplications(c *complaints, clients map[string]string) {
	for i, a := range d.Applications {
		where := fmt.Sprintf("applications[%d]", i)
		if a.TenantID == TenantADFS && len(a.FederatedCredentials) > 0 {
			c.addf("%s.federatedCredentials: ADFS has none", where)
		}
		c.once(clients, a.ClientID, where)
		c.guid(where+".clientID", a.ClientID)
		c.guid(where+".principalID", a.PrincipalID)
		d.knownTenant(c, where, a.TenantID)
		for _, other := range a.OtherTenantIDs {
			d.knownTenant(c, where, other)
		}
		if a.AccessTokenVersion < 0 || a.AccessTokenVersion > 2 {
			c.addf("%s.accessTokenVersion: expected 1 or 2", where)
		}
		if a.Certificate != "" {
			if _, err := ParseCertificate(a.Certificate); err != nil {
				c.addf("%s.certificate: %w", where, err)
			}
		}
	}
}

func (d Document) validateMachine(c *complaints, where string, kind Kind, m Machine, machines, addresses map[string]string) {
	c.name(where+".name", m.Name)
	c.name(where+".resourceGroup", m.ResourceGroup)
	c.once(machines, m.id(kind).Key(), where)
	if !d.hasSubscription(m.SubscriptionID) {
		c.addf("%s: subscription %q is not in subscriptions", where, m.SubscriptionID)
	}
	if kind == VM && len(m.Instances) > 0 {
		c.addf("%s: a VM has addresses, only a scale set has instances", where)
	}
	if kind == VMSS && len(m.Addresses) > 0 {
		c.addf("%s: give the addresses to the scale set's instances", where)
	}
	if s := m.SystemAssigned; s != nil {
		c.guid(where+".systemAssigned.clientID", s.ClientID)
		c.guid(where+".systemAssigned.principalID", s.PrincipalID)
	}
	for _, id := range m.Identities {
		if _, err := ParseIdentityID(id); err != nil {
			c.addf("%s: %w", where, err)
		}
	}
	d.validateInstances(c, where, kind, m.instances(kind), addresses)
}

func (d Document) validateInstances(c *complaints, where string, kind Kind, instances []Instance, addresses map[string]string) {
	ids := map[string]string{}
	for i, instance := range instances {
		at := fmt.Sprintf("%s.instances[%d]", where, i)
		if kind == VMSS {
			c.name(at+".id", instance.ID)
			c.once(ids, instance.ID, at)
		}
		for _, address := range instance.Addresses {
			if a, err := netip.ParseAddr(address); err != nil {
				c.addf("%s: address %q: expected an IP address", at, address)
			} else {
				c.once(addresses, a.Unmap().String(), at)
			}
		}
	}
}

func (d Document) validateRole(c *complaints, where string, r RoleAssignment) {
	c.guid(where+".principalID", r.PrincipalID)
	if !strings.HasPrefix(r.Scope, "/") {
		c.addf("%s.scope: %q: expected an ARM ID, or / for everything", where, r.Scope)
	}
	if r.Role == "" && len(r.Actions) == 0 {
		c.addf("%s: give a role or actions", where)
	}
	if r.Role != "" && actionsOf(r.Role) == nil {
		c.addf("%s.role: %q is not known; use actions for roles of your own", where, r.Role)
	}
}

func (d Document) validateSettings(c *complaints) {
	s := d.Settings
	if s.Authorization != AuthorizeAny && s.Authorization != AuthorizeRoles {
		c.addf("settings.authorization: %q: expected any or roles", s.Authorization)
	}
	if min(s.Entra.TokenLifetime, s.IMDS.TokenLifetime) <= 0 {
		c.addf("settings: tokenLifetime must be more than 0")
	}
	if min(s.ARM.RetryAfter, s.ARM.MaxIdentities, s.Limits.IdentityAtOnce) < 0 {
		c.addf("settings: retryAfter, maxIdentities and identityAtOnce cannot be negative")
	}
	for _, b := range []Bucket{
		s.Limits.ScaleSetWrites, s.Limits.MachineWrites, s.Limits.MachineReads, s.Limits.OperationReads, s.Limits.Reads, s.Limits.Writes, s.Limits.Metadata, s.Limits.Identity,
	} {
		if !b.valid() {
			c.addf("settings.limits: a bucket needs a size and a perMinute that are more than 0 (or size 0: no limit)")
		}
	}
	if name := s.IMDS.DefaultMachine; name != "" && !d.hasMachine(name) {
		c.addf("settings.imds.defaultMachine: no VM or scale set is called %q", name)
	}
}

func (d Document) knownTenant(c *complaints, where, id string) {
	if id == TenantADFS && strings.HasPrefix(where, "applications") {
		return
	}
	for _, t := range d.Tenants {
		if EqualFold(t.ID, id) {
			return
		}
	}
	c.addf("%s: tenant %q is not in tenants", where, id)
}

func (d Document) hasSubscription(id string) bool {
	for _, s := range d.Subscriptions {
		if EqualFold(s.ID, id) {
			return true
		}
	}
	return false
}

func (d Document) hasMachine(name string) bool {
	for _, list := range [][]Machine{d.VirtualMachines, d.ScaleSets} {
		for _, m := range list {
			if EqualFold(m.Name, name) {
				return true
			}
		}
	}
	return false
}
