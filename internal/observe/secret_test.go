package observe_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"text/template"

	"github.com/google/go-cmp/cmp"

	"github.com/podid-io/podid/internal/observe"
)

// TestSecretNeverShows prints a secret in every way a slip can.
func TestSecretNeverShows(t *testing.T) {
	const value = "hunter2"
	secret := observe.NewSecret(value)
	type exported struct{ Password observe.Secret }
	type unexported struct{ password observe.Secret }
	values := map[string]any{
		"plain": secret, "pointer": &secret, "exported": exported{secret}, "unexported": unexported{secret},
		"pointer to unexported": &unexported{secret}, "slice": []observe.Secret{secret},
		"map": map[string]observe.Secret{"x": secret}, "key": map[observe.Secret]int{secret: 1}, "any": []any{secret},
	}
	for name, v := range values {
		var printed []string
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%T"} {
			printed = append(printed, fmt.Sprintf(verb, v))
		}
		if data, err := json.Marshal(v); err == nil {
			printed = append(printed, string(data))
		}
		printed = append(printed, fmt.Errorf("bad: %w, %v", errors.New("x"), v).Error())
		var b strings.Builder
		if err := template.Must(template.New("").Parse("{{.}}")).Execute(&b, v); err != nil {
			t.Fatal(err)
		}
		for _, text := range append(printed, b.String()) {
			if strings.Contains(text, value) || strings.Contains(text, fmt.Sprintf("%x", value)) {
				t.Errorf("%s shows: %s", name, text)
			}
		}
	}
	if got := secret.Reveal(); got != value {
		t.Errorf("Reveal returned %q", got)
	}
}

func TestSecretText(t *testing.T) {
	secret := observe.NewSecret("x")
	data, err := json.Marshal(struct{ Token observe.Secret }{secret})
	if err != nil {
		t.Fatal(err)
	}
	text, err := secret.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	got := []string{secret.String(), secret.GoString(), fmt.Sprint(secret), secret.LogValue().String(), string(data), string(text)}
	want := []string{"[secret]", "[secret]", "[secret]", "[secret]", `{"Token":"[secret]"}`, "[secret]"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSecretEqual(t *testing.T) {
	var none observe.Secret
	a, b, c := observe.NewSecret("x"), observe.NewSecret("x"), observe.NewSecret("y")
	if !a.Equal(b) || a.Equal(c) || a.Equal(none) || !none.Equal(observe.NewSecret("")) {
		t.Error("Equal does not compare values")
	}
	if !none.IsZero() || a.IsZero() || none.Reveal() != "" {
		t.Error("the zero value is not an empty secret")
	}
	if !cmp.Equal(a, b) || cmp.Equal(a, c) {
		t.Error("cmp does not compare values")
	}
}

func TestShortID(t *testing.T) {
	for id, want := range map[string]string{
		"": "", "short": "short", "12345678": "12345678", "123456789": "12345678…",
		"b9fe2d38-5f0c-4a0c-9a5e-1c9d4d7a7f01": "b9fe2d38…", "ääääääääää": "ääääääää…",
	} {
		if got := observe.ShortID(id); got != want {
			t.Errorf("%q: got %q, want %q", id, got, want)
		}
	}
}
