// The policy of the cluster's owner: which pods may use which identities.

package identity

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/ascii"
	"github.com/podid-io/podid/internal/reason"
)

// Policy is a compiled AzureIdentityPolicy. It is immutable and safe for concurrent use. A nil
// Policy allows everything, as the mode off does.
type Policy struct {
	mode      v1.PolicyMode
	rules     []policyRule
	selecting bool
}

type policyRule struct {
	name            string
	namespaces      []string
	selector        labels.Selector // labels.Nothing without one
	serviceAccounts []string
	identities      []v1.PolicyIdentities
	plainIMDS       bool
}

// permission is the combined result of the rules for one pod and one identity.
type permission struct {
	rule string // the first rule that allows the use, "" when none does
	// byClientID and byResourceID report that a rule for the pod's namespace names the identity that
	// way, without wildcard.
	byClientID, byResourceID bool

	audiences []string // nil: all
	// audiencesByName are the audiences of the entries that name the identity. Only they count for an
	// identity of the cluster itself.
	audiencesByName []string
	enforced        bool
}

// CompilePolicy compiles the policy object. It returns nil when object is nil. With an error it
// still returns a usable policy, in which an invalid selector selects no namespace. An unknown mode
// counts as enforce.
func CompilePolicy(object *v1.AzureIdentityPolicy) (*Policy, error) {
	if object == nil || object.Name != v1.PolicyName {
		return nil, nil //nolint:nilnil // no object, no policy
	}
	p := &Policy{mode: v1.PolicyEnforce}
	if object.Spec.Mode == v1.PolicyOff || object.Spec.Mode == v1.PolicyWarn {
		p.mode = object.Spec.Mode
	}
	var errs []error
	for _, r := range object.Spec.Rules {
		rule := policyRule{
			name: r.Name, namespaces: r.Namespaces, selector: labels.Nothing(),
			serviceAccounts: r.ServiceAccounts, identities: r.Identities, plainIMDS: r.PlainIMDS,
		}
		if r.NamespaceSelector != nil {
			selector, err := metav1.LabelSelectorAsSelector(r.NamespaceSelector)
			if err != nil {
				errs = append(errs, fmt.Errorf("rule %q of AzureIdentityPolicy %s selects no namespace: read namespaceSelector: %w", r.Name, object.Name, err))
			} else {
				rule.selector, p.selecting = selector, true
			}
		}
		p.rules = append(p.rules, rule)
	}
	return p, errors.Join(errs...)
}

// Mode returns what happens to a use that no rule allows.
func (p *Policy) Mode() v1.PolicyMode {
	if p == nil {
		return v1.PolicyOff
	}
	return p.mode
}

// NeedsNamespaceLabels reports whether a rule selects namespaces by their labels.
func (p *Policy) NeedsNamespaceLabels() bool { return p != nil && p.selecting }

// AllowsInNamespace reports whether a rule allows the identity to some pod of the identity's
// namespace. It is for decisions before there is a pod. It is true for all identities when the mode
// is off.
func (p *Policy) AllowsInNamespace(id *v1.AzureIdentity, namespaceLabels map[string]string) bool {
	if p.Mode() == v1.PolicyOff {
		return true
	}
	return slices.ContainsFunc(p.rules, func(r policyRule) bool {
		return r.covers(id.Namespace, namespaceLabels) &&
			slices.ContainsFunc(r.identities, func(entry v1.PolicyIdentities) bool { return matches(entry, id) })
	})
}

// permission combines the results of all rules.
func (p *Policy) permission(pod Pod, id *v1.AzureIdentity) permission {
	if p == nil {
		return permission{}
	}
	result := permission{enforced: p.mode == v1.PolicyEnforce}
	off := p.mode == v1.PolicyOff
	audiences, byName := audienceUnion{all: off}, audienceUnion{all: off}
	for _, r := range p.rules {
		if !r.allows(pod) {
			continue
		}
		for _, entry := range r.identities {
			if !matches(entry, id) {
				continue
			}
			result.rule = cmp.Or(result.rule, r.name)
			audiences.add(entry.Audiences)
			byClientID, byResourceID := len(entry.ClientIDs) > 0, namesResourceID(entry, id)
			if slices.Contains(r.namespaces, pod.Namespace) && (byClientID || byResourceID) {
				result.byClientID, result.byResourceID = result.byClientID || byClientID, result.byResourceID || byResourceID
				byName.add(entry.Audiences)
			}
		}
	}
	result.audiences, result.audiencesByName = audiences.list(), byName.list()
	return result
}

// audienceUnion combines the audiences of several entries. An entry without any allows all.
type audienceUnion struct {
	all   bool
	names []string
}

func (u *audienceUnion) add(names []string) {
	u.all = u.all || len(names) == 0
	u.names = append(u.names, names...)
}

// list returns the audiences, or nil for all.
func (u *audienceUnion) list() []string {
	if u.all {
		return nil
	}
	return u.names
}

// allows reports whether the rule applies to the pod.
func (r policyRule) allows(pod Pod) bool {
	return r.covers(pod.Namespace, pod.NamespaceLabels) &&
		(len(r.serviceAccounts) == 0 || slices.Contains(r.serviceAccounts, pod.serviceAccount()))
}

// covers reports whether the rule applies to a namespace. Unknown labels (nil) match no selector,
// not even one that requires a label to be absent.
func (r policyRule) covers(namespace string, namespaceLabels map[string]string) bool {
	return slices.Contains(r.namespaces, namespace) ||
		namespaceLabels != nil && r.selector.Matches(labels.Set(namespaceLabels))
}

// serviceAccount returns the pod's ServiceAccount, with the API server's default filled in.
func (p Pod) serviceAccount() string {
	if p.ServiceAccount == "" {
		return "default"
	}
	return p.ServiceAccount
}

// matches reports whether every field of the entry that is set matches the identity.
func matches(entry v1.PolicyIdentities, id *v1.AzureIdentity) bool {
	spec := &id.Spec
	return (len(entry.Types) == 0 || slices.Contains(entry.Types, spec.Type)) &&
		(len(entry.ResourceIDs) == 0 || matchesResourceID(entry.ResourceIDs, spec)) &&
		(len(entry.ClientIDs) == 0 || spec.ClientID != "" && containsFold(entry.ClientIDs, spec.ClientID)) &&
		(len(entry.TenantIDs) == 0 || matchesTenants(entry.TenantIDs, spec)) &&
		(len(entry.Authorities) == 0 || matchesAuthority(entry.Authorities, spec))
}

// namesResourceID reports whether the entry has the identity's resource ID
// without a wildcard.
func namesResourceID(entry v1.PolicyIdentities, id *v1.AzureIdentity) bool {
	return slices.ContainsFunc(entry.ResourceIDs, func(pattern string) bool {
		return !strings.Contains(pattern, "*") && ascii.EqualFold(pattern, id.Spec.ResourceID)
	})
}

func matchesResourceID(patterns []string, spec *v1.AzureIdentitySpec) bool {
	return spec.Type == v1.UserAssignedMSI && slices.ContainsFunc(patterns, func(pattern string) bool {
		return matchSegments(ascii.ToLower(pattern), ascii.ToLower(spec.ResourceID))
	})
}

// matchSegments compares segment by segment, so that no wildcard crosses a slash.
func matchSegments(pattern, s string) bool {
	for {
		p, pRest, pMore := strings.Cut(pattern, "/")
		part, rest, more := strings.Cut(s, "/")
		if pMore != more || !matchWildcards(p, part) {
			return false
		}
		if !more {
			return true
		}
		pattern, s = pRest, rest
	}
}

// matchWildcards reports whether s is pattern with any text for each *. The text between two
// wildcards is matched at its first occurrence, so the time is linear in the length of s for each
// wildcard.
func matchWildcards(pattern, s string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == s
	}
	first, last := parts[0], parts[len(parts)-1]
	if len(s) < len(first)+len(last) || !strings.HasPrefix(s, first) || !strings.HasSuffix(s, last) {
		return false
	}
	s = s[len(first) : len(s)-len(last)]
	for _, part := range parts[1 : len(parts)-1] {
		at := strings.Index(s, part)
		if at < 0 {
			return false
		}
		s = s[at+len(part):]
	}
	return true
}

func matchesTenants(allowed []string, spec *v1.AzureIdentitySpec) bool {
	if spec.Type == v1.UserAssignedMSI || !containsFold(allowed, spec.TenantID) {
		return false
	}
	return !slices.ContainsFunc(spec.AuxiliaryTenantIDs, func(tenant string) bool { return !containsFold(allowed, tenant) })
}

func matchesAuthority(allowed []string, spec *v1.AzureIdentitySpec) bool {
	return spec.Type == v1.UserAssignedMSI || spec.ADEndpoint == "" ||
		containsFold(allowed, host(spec.ADEndpoint))
}

func containsFold(list []string, s string) bool {
	return slices.ContainsFunc(list, func(item string) bool { return ascii.EqualFold(item, s) })
}

// RefuseAudience returns the policy's refusal of a token for the resource, nil when the token is
// allowed.
func (g Grant) RefuseAudience(resource string) *reason.Refusal {
	if !g.permission.enforced || g.permission.allowsAudience(resource) {
		return nil
	}
	return refuseAudience(g, resource)
}

// WarnAudience returns the refusal of a token for the resource under an enforced policy. It returns
// nil if there is none, or if the policy is off or already enforced.
func (g Grant) WarnAudience(resource string) *reason.Refusal {
	switch {
	case g.Warning != nil:
		return g.Warning
	case g.permission.enforced || g.permission.allowsAudience(resource):
		return nil
	default:
		return refuseAudience(g, resource)
	}
}

func (p permission) allowsAudience(resource string) bool {
	return p.audiences == nil || slices.ContainsFunc(p.audiences, func(audience string) bool {
		return ascii.EqualFold(strings.TrimSuffix(audience, "/"), strings.TrimSuffix(resource, "/"))
	})
}

// OfCluster returns the grant restricted as for an identity of the cluster itself: to the audiences
// of the rules that name the identity.
func (g Grant) OfCluster() Grant {
	g.permission.audiences = g.permission.audiencesByName
	return g
}

// Rule returns the name of the policy's rule that allows the grant, "" if there is none.
func (g Grant) Rule() string { return g.permission.rule }

// PlainIMDS returns the exception that gives the pod plain IMDS, as Excepted does. Under an
// enforced policy it counts only if a rule sets plainIMDS; otherwise the refusal is returned. Under
// warn, both are returned.
func (r Rules) PlainIMDS(pod Pod, exceptions []*v1.AzurePodIdentityException) (*v1.AzurePodIdentityException, *reason.Refusal) {
	e := Excepted(pod, exceptions)
	if e == nil || r.Policy.allowsPlainIMDS(pod) {
		return e, nil
	}
	refusal := refuseException(pod, e)
	if r.Policy.Mode() == v1.PolicyEnforce {
		return nil, refusal
	}
	return e, refusal
}

func (p *Policy) allowsPlainIMDS(pod Pod) bool {
	return p.Mode() == v1.PolicyOff ||
		slices.ContainsFunc(p.rules, func(r policyRule) bool { return r.plainIMDS && r.allows(pod) })
}
