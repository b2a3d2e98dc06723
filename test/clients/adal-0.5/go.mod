module github.com/podid-io/podid/test/clients/adal-0.5

go 1.26.0

require (
	github.com/Azure/go-autorest/autorest/adal v0.5.0
	github.com/podid-io/podid/test/clients/report v0.0.0
)

require (
	github.com/Azure/go-autorest/autorest/date v0.1.0 // indirect
	github.com/Azure/go-autorest/tracing v0.5.0 // indirect
	github.com/dgrijalva/jwt-go v3.2.0+incompatible // indirect
)

replace github.com/podid-io/podid/test/clients/report => ../report
